"""Words and facts that the demo tasks are made of, written by hand.

A line of words is one group of things; a line with `|` is one row of a table, whose columns a
comment names. Proper names keep their capitals, everything else is lower case.
"""


def words(text: str) -> tuple[str, ...]:
  """The words of a block of text."""
  return tuple(text.split())


def rows(text: str) -> tuple[tuple[str, ...], ...]:
  """The lines of a block of text, each cut at its bars."""
  return tuple(
    tuple(cell.strip() for cell in line.split('|')) for line in text.splitlines() if line.strip()
  )


def forms(text: str) -> tuple[tuple[str, ...], ...]:
  """The words of a block of text, each cut at its slashes."""
  return tuple(tuple(word.split('/')) for word in text.split())


def grouped(text: str) -> tuple[tuple[str, str], ...]:
  """(member, key) for lines of the form `key | member, member`."""
  return tuple((member, key) for key, members in rows(text) for member in members.split(', '))


# Groups of things. Two groups of one task share no word (`make_tasks.py` would find it).

ANIMALS = words("""dog cat horse cow pig sheep goat rabbit lion tiger bear wolf fox deer elephant
  monkey zebra giraffe camel donkey kangaroo panda squirrel hamster otter beaver leopard buffalo""")
FARM_ANIMALS = words('cow pig sheep goat hen horse donkey rooster lamb calf pony ram piglet bull')
WILD_ANIMALS = words("""lion tiger wolf leopard zebra giraffe elephant bear gorilla cheetah hyena
  panther crocodile rhino""")
BIRDS = words("""eagle owl robin crow sparrow parrot swan pigeon hawk gull raven stork canary
  woodpecker falcon magpie heron lark finch dove""")
FISH = words("""shark salmon trout tuna cod herring carp sardine mackerel eel pike haddock halibut
  anchovy goldfish catfish perch""")
INSECTS = words("""ant bee wasp butterfly moth beetle mosquito ladybird grasshopper dragonfly flea
  termite hornet locust cockroach""")
FRUITS = words("""apple banana pear peach plum grape cherry lemon lime mango melon strawberry
  raspberry blueberry pineapple apricot papaya grapefruit""")
VEGETABLES = words("""carrot potato onion cabbage lettuce spinach broccoli celery garlic radish
  turnip leek cauliflower parsnip kale beetroot""")
TREES = words('oak pine maple birch willow cedar elm beech fir spruce poplar cypress larch alder')
FLOWERS = words("""rose tulip daisy lily orchid daffodil sunflower poppy carnation lavender
  marigold jasmine peony dandelion""")
TOOLS = words("""hammer screwdriver drill wrench axe shovel rake spade anvil chisel ladder saw
  crowbar hoe clamp wheelbarrow trowel mallet""")
VEHICLES = words("""car bus train truck bicycle motorcycle boat ship plane helicopter tram van taxi
  scooter tractor ferry ambulance canoe submarine yacht""")
CLOTHES = words("""shirt coat hat sock shoe glove scarf dress skirt jacket sweater cap vest blouse
  cardigan hoodie boot apron raincoat sandal""")
FURNITURE = words("""chair table sofa bed desk shelf cupboard wardrobe stool bench bookcase armchair
  couch cabinet dresser crib""")
KITCHENWARE = words("""plate cup fork spoon knife bowl pan pot kettle oven mug toaster blender
  grater ladle teapot saucepan""")
FOODS = words("""bread cheese rice pasta soup pizza butter sandwich cake biscuit pancake salad
  omelette sausage pie yogurt honey jam stew cereal""")
DRINKS = words('water milk coffee tea juice wine beer lemonade cocoa cider soda whisky champagne')
SPORTS = words("""football tennis golf basketball hockey rugby volleyball baseball swimming boxing
  skiing cycling rowing judo karate badminton surfing archery""")
INSTRUMENTS = words("""piano guitar violin drum flute trumpet cello harp clarinet saxophone trombone
  tuba oboe banjo accordion harmonica""")
JOBS = words("""doctor teacher nurse farmer baker pilot lawyer driver painter writer singer soldier
  sailor carpenter plumber engineer dentist waiter butcher tailor librarian gardener""")
BODY = words("""head hand foot arm leg nose ear eye mouth knee elbow shoulder finger thumb toe neck
  chest wrist ankle chin""")
FAMILY = words("""mother father sister brother uncle aunt cousin grandmother grandfather son
  daughter nephew niece wife husband""")
MEN = words("""father brother uncle grandfather son nephew husband king prince boy man gentleman
  grandson stepfather""")
WOMEN = words("""mother sister aunt grandmother daughter niece wife queen princess girl woman lady
  granddaughter stepmother""")
COLORS = words('red blue green yellow black white brown pink purple grey beige scarlet turquoise')
SHAPES = words('circle square triangle rectangle oval cube sphere cone cylinder pyramid hexagon')
BUILDINGS = words("""house school church hospital hotel factory castle museum library theatre
  stadium palace cottage barn cathedral supermarket""")
NATURE = words("""river mountain lake forest desert island beach valley ocean hill cave waterfall
  volcano glacier swamp meadow""")
WEATHER = words(
  'rain snow wind storm cloud fog sunshine thunder lightning frost hail breeze drizzle'
)
TIMES = words('second minute hour day week month year decade century morning evening noon midnight')
METALS = words('iron gold silver copper tin zinc steel aluminium brass bronze nickel platinum')
FABRICS = words('cotton wool silk linen velvet denim leather nylon polyester lace felt satin')
FLYING = words('eagle owl robin crow sparrow plane helicopter rocket bee wasp butterfly moth kite')
HOT = words('fire oven sun stove lava flame volcano candle sauna furnace bonfire steam radiator')
COLD = words('ice snow fridge freezer glacier iceberg frost igloo blizzard snowman winter hail')
HEAVY = words('truck house ship train elephant bridge tower piano castle whale tank mountain bus')
LIGHT = words('feather leaf paper balloon pin button coin ribbon petal thread straw needle hair')
COMPUTING = words("""file folder server keyboard screen password database browser software website
  network printer laptop router""")
MATHS = words('sum product mean matrix vector integer fraction equation formula angle median ratio')
TEXTS = words('letter sentence paragraph chapter title word page poem novel essay headline comma')
STORAGE = words('file folder disk path directory archive cache memory backup drive')
NETWORK = words('server client port socket host router website address request connection')
PLEASANT = words("""happy glad joyful cheerful delighted pleased proud excited grateful hopeful
  relaxed thrilled""")
UNPLEASANT = words("""sad angry afraid upset worried lonely jealous gloomy annoyed nervous miserable
  ashamed furious anxious""")
BIG = words('big large giant enormous massive vast gigantic immense hefty colossal')
SMALL = words('small little miniature tiny compact short petite wee slight microscopic')
MOTION = words('run walk jump crawl swim climb march hop gallop sprint wander skip slide stroll')
SPEECH = words('say tell shout whisper ask answer mention announce explain argue promise declare')
CLEAR_VERBS = words('carry bring choose forget steal throw know find lose')
CITIES = words("""Paris London Berlin Madrid Rome Vienna Tokyo Cairo Lisbon Moscow Athens Dublin
  Oslo Prague Warsaw Boston Chicago Sydney Toronto Mumbai""")
MEN_NAMES = words('tom ben paul jack peter oscar leo david james mark simon george henry adam')
WOMEN_NAMES = words('anna lucy kate emma mary helen nina ruth sarah julia laura alice rose jane')

# Small grammars: what sentences and phrases are made of.

PEOPLE = words('tom anna ben lucy paul kate jack emma peter mary oscar helen leo nina')
ADJECTIVES = words("""old new big small red blue long short dark clean heavy empty round soft broken
  quiet cheap fresh wide thin default current local""")
THINGS = words("""box book door table file page map picture bag chair bottle key lamp ball cup list
  card ticket phone camera clock basket window wall report message folder screen pen rope plate coin
  letter value name path image""")
PLAIN_WORDS = words("""apple river window paper table value list file name green horse number
  letter street summer winter bread water stone bridge forest doctor teacher ticket planet
  animal button silver copper blanket market island desert castle city village farmer sailor
  soldier camera picture mirror pencil carpet basket bottle hammer ladder string class module test
  index array vector matrix figure color image sound voice story poem lesson answer reason
  result banana orange tiger rabbit monkey eagle salmon pepper potato butter coffee sugar cheese
  dinner morning evening minute moment second center corner circle square border empire flower
  branch leaf tower cellar roof floor ceiling curtain drawer cushion candle lantern shadow light
  cloud storm thunder ocean valley hill cliff beach harbor vessel wagon wheel saddle helmet shield
  arrow hunter baker painter writer singer dancer lawyer nurse pilot driver captain king queen
  prince giant dragon ghost wizard cousin friend neighbor stranger guest visitor method object
  function variable constant pattern filter buffer record column script shell process thread loop
  stack queue graph label symbol digit comma bracket margin sample signal pixel cursor menu
  folder archive package version license project paragraph sentence chapter title theory model
  metric factor sum product angle length width height weight speed price budget salary profit
  trade coin dollar journey summit tunnel railway airport station hotel museum temple palace
  prison hospital college library theater stadium""")
# base, past, past participle, -ing form
VERBS = forms("""
  find/found/found/finding move/moved/moved/moving carry/carried/carried/carrying
  buy/bought/bought/buying sell/sold/sold/selling clean/cleaned/cleaned/cleaning
  drop/dropped/dropped/dropping lift/lifted/lifted/lifting hide/hid/hidden/hiding
  lose/lost/lost/losing bring/brought/brought/bringing take/took/taken/taking
  keep/kept/kept/keeping break/broke/broken/breaking draw/drew/drawn/drawing
  paint/painted/painted/painting hold/held/held/holding push/pushed/pushed/pushing
  use/used/used/using check/checked/checked/checking see/saw/seen/seeing
  copy/copied/copied/copying make/made/made/making give/gave/given/giving
  choose/chose/chosen/choosing forget/forgot/forgotten/forgetting change/changed/changed/changing
  steal/stole/stolen/stealing throw/threw/thrown/throwing know/knew/known/knowing
""")
# verbs for one-word tasks, in the same columns
MORE_VERBS = forms("""
  write/wrote/written/writing read/read/read/reading go/went/gone/going come/came/come/coming
  eat/ate/eaten/eating drink/drank/drunk/drinking sing/sang/sung/singing swim/swam/swum/swimming
  run/ran/run/running begin/began/begun/beginning fly/flew/flown/flying grow/grew/grown/growing
  speak/spoke/spoken/speaking drive/drove/driven/driving ride/rode/ridden/riding
  fall/fell/fallen/falling sleep/slept/slept/sleeping feel/felt/felt/feeling
  leave/left/left/leaving meet/met/met/meeting send/sent/sent/sending spend/spent/spent/spending
  build/built/built/building teach/taught/taught/teaching catch/caught/caught/catching
  think/thought/thought/thinking stand/stood/stood/standing
  understand/understood/understood/understanding say/said/said/saying tell/told/told/telling
  pay/paid/paid/paying hear/heard/heard/hearing wear/wore/worn/wearing win/won/won/winning
  sit/sat/sat/sitting stop/stopped/stopped/stopping plan/planned/planned/planning
  walk/walked/walked/walking talk/talked/talked/talking call/called/called/calling
  play/played/played/playing study/studied/studied/studying try/tried/tried/trying
  cry/cried/cried/crying dance/danced/danced/dancing live/lived/lived/living
  hope/hoped/hoped/hoping smile/smiled/smiled/smiling jump/jumped/jumped/jumping
  help/helped/helped/helping wait/waited/waited/waiting return/returned/returned/returning
  print/printed/printed/printing test/tested/tested/testing add/added/added/adding
  remove/removed/removed/removing update/updated/updated/updating create/created/created/creating
  store/stored/stored/storing load/loaded/loaded/loading
""")
# noun, plural
PLURALS = forms("""
  child/children man/men woman/women mouse/mice foot/feet tooth/teeth goose/geese leaf/leaves
  knife/knives wife/wives wolf/wolves shelf/shelves loaf/loaves thief/thieves potato/potatoes
  tomato/tomatoes hero/heroes city/cities country/countries baby/babies story/stories
  party/parties lady/ladies berry/berries library/libraries entry/entries query/queries
  directory/directories property/properties box/boxes fox/foxes bus/buses class/classes
  glass/glasses dress/dresses process/processes address/addresses church/churches watch/watches
  bench/benches match/matches branch/branches batch/batches dish/dishes brush/brushes hash/hashes
  index/indexes key/keys boy/boys day/days toy/toys array/arrays dog/dogs cat/cats book/books
  house/houses tree/trees car/cars file/files list/lists name/names value/values table/tables
  page/pages word/words line/lines number/numbers module/modules string/strings object/objects
  method/methods letter/letters window/windows river/rivers garden/gardens flower/flowers
  friend/friends teacher/teachers school/schools apple/apples orange/oranges bottle/bottles
  bridge/bridges island/islands mountain/mountains student/students doctor/doctors
  picture/pictures chair/chairs door/doors
""")
# adjective, comparative, superlative
DEGREES = forms("""
  big/bigger/biggest small/smaller/smallest tall/taller/tallest short/shorter/shortest
  long/longer/longest old/older/oldest young/younger/youngest new/newer/newest fast/faster/fastest
  slow/slower/slowest hot/hotter/hottest cold/colder/coldest warm/warmer/warmest
  cool/cooler/coolest good/better/best bad/worse/worst happy/happier/happiest sad/sadder/saddest
  easy/easier/easiest hard/harder/hardest heavy/heavier/heaviest light/lighter/lightest
  dark/darker/darkest bright/brighter/brightest deep/deeper/deepest high/higher/highest
  low/lower/lowest wide/wider/widest narrow/narrower/narrowest thick/thicker/thickest
  thin/thinner/thinnest fat/fatter/fattest rich/richer/richest poor/poorer/poorest
  clean/cleaner/cleanest dirty/dirtier/dirtiest dry/drier/driest wet/wetter/wettest
  strong/stronger/strongest weak/weaker/weakest loud/louder/loudest soft/softer/softest
  sweet/sweeter/sweetest sharp/sharper/sharpest smart/smarter/smartest clever/cleverer/cleverest
  simple/simpler/simplest large/larger/largest nice/nicer/nicest safe/safer/safest
  brave/braver/bravest close/closer/closest near/nearer/nearest early/earlier/earliest
  late/later/latest busy/busier/busiest funny/funnier/funniest pretty/prettier/prettiest
  ugly/uglier/ugliest angry/angrier/angriest lazy/lazier/laziest noisy/noisier/noisiest
  cheap/cheaper/cheapest fresh/fresher/freshest quick/quicker/quickest kind/kinder/kindest
  calm/calmer/calmest tiny/tinier/tiniest
""")
# adjective, adverb
ADVERBS = forms("""
  quick/quickly slow/slowly quiet/quietly loud/loudly happy/happily sad/sadly easy/easily
  careful/carefully sudden/suddenly soft/softly bad/badly brave/bravely calm/calmly clear/clearly
  close/closely correct/correctly deep/deeply direct/directly eager/eagerly exact/exactly
  final/finally free/freely gentle/gently glad/gladly heavy/heavily honest/honestly
  hungry/hungrily kind/kindly lazy/lazily light/lightly lucky/luckily main/mainly near/nearly
  nice/nicely normal/normally open/openly perfect/perfectly polite/politely poor/poorly
  proud/proudly rapid/rapidly rare/rarely real/really recent/recently safe/safely secret/secretly
  serious/seriously sharp/sharply simple/simply smooth/smoothly strange/strangely strict/strictly
  strong/strongly sweet/sweetly tight/tightly usual/usually warm/warmly weak/weakly wide/widely
  wise/wisely angry/angrily automatic/automatically complete/completely global/globally
  separate/separately static/statically dynamic/dynamically implicit/implicitly
  explicit/explicitly internal/internally
""")
# word, opposite: read in both directions
OPPOSITES = forms("""
  hot/cold big/small tall/short old/young fast/slow high/low wet/dry rich/poor strong/weak
  hard/soft early/late easy/difficult full/empty happy/sad heavy/light loud/quiet clean/dirty
  safe/dangerous thick/thin wide/narrow deep/shallow good/bad true/false right/wrong first/last
  near/far up/down in/out inside/outside over/under push/pull buy/sell give/take win/lose
  start/finish arrive/depart remember/forget love/hate laugh/cry day/night summer/winter
  north/south east/west friend/enemy question/answer begin/end accept/refuse add/remove
  import/export include/exclude increase/decrease maximum/minimum positive/negative visible/hidden
  same/different
""")
# word, synonyms
SYNONYMS = forms("""
  big/large small/little begin/start end/finish quick/fast happy/glad sad/unhappy angry/mad
  smart/clever hard/difficult easy/simple rich/wealthy sick/ill strange/odd scared/afraid
  quiet/silent loud/noisy error/mistake choose/pick repair/fix shut/close speak/talk look/watch
  jump/leap buy/purchase answer/reply gift/present house/home road/street car/automobile
  doctor/physician movie/film picture/image stone/rock sea/ocean woods/forest child/kid boat/ship
  rabbit/bunny couch/sofa garbage/trash correct/right wrong/incorrect whole/entire empty/vacant
  brave/bold calm/peaceful tired/weary funny/amusing ancient/old modern/new famous/renowned
  rare/uncommon required/needed allow/permit forbid/ban create/make delete/remove get/obtain
  show/display hide/conceal help/assist try/attempt need/require contain/include join/connect
  split/divide modify/change option/choice folder/directory argument/parameter
""")
# Sentences by topic: any beginning goes with any ending of its topic.
TOPICS = {
  'sport': (
    ('the team', 'our goalkeeper', 'the coach', 'the young player', 'the champion', 'her club'),
    (
      'won the match',
      'scored a goal',
      'trained in the stadium',
      'lost the final',
      'played in the league',
      'ran onto the pitch',
      'threw the ball',
    ),
  ),
  'food': (
    ('the cook', 'my aunt', 'the baker', 'the waiter', 'our guest', 'the chef'),
    (
      'fried an egg',
      'ate the soup',
      'put salt on the rice',
      'baked a cake',
      'ordered a salad',
      'tasted the sauce',
      'sliced the bread',
    ),
  ),
  'travel': (
    ('the tourist', 'our guide', 'the passenger', 'my neighbor', 'the pilot', 'the family'),
    (
      'booked a flight',
      'packed a suitcase',
      'missed the train',
      'stayed in a hotel',
      'crossed the border',
      'lost the passport',
      'waited at the airport',
    ),
  ),
  'money': (
    ('the bank', 'the investor', 'the company', 'our boss', 'the buyer', 'the government'),
    (
      'paid the bill',
      'raised the price',
      'borrowed some cash',
      'opened an account',
      'sold the shares',
      'cut the taxes',
      'counted the coins',
    ),
  ),
  'computers': (
    (
      'the programmer',
      'this module',
      'the server',
      'the script',
      'our website',
      'the new software',
    ),
    (
      'crashed after the update',
      'read the file',
      'stored the password',
      'returned an error',
      'sent an email',
      'printed the value of a variable',
      'loaded the data',
    ),
  ),
  'health': (
    ('the doctor', 'the nurse', 'the patient', 'my grandfather', 'the dentist', 'the sick child'),
    (
      'took a pill',
      'had a fever',
      'checked the heart',
      'went to the hospital',
      'asked about the pain',
      'needed a vaccine',
      'treated the wound',
    ),
  ),
  'animals': (
    ('the dog', 'a wild horse', 'the cat', 'an old lion', "the farmer's goat", 'a young bear'),
    (
      'slept in the hay',
      'chased its tail',
      'fed its young',
      'licked its fur',
      'ran across the field',
      'hunted at night',
      'wagged its ears',
    ),
  ),
  'law': (
    ('the judge', 'the lawyer', 'the thief', 'the police', 'the witness', 'the jury'),
    (
      'spoke in court',
      'broke the law',
      'heard the case',
      'went to prison',
      'asked for a trial',
      'signed the confession',
      'talked about the crime',
    ),
  ),
  'weather': (
    ('the morning', 'the whole week', 'this winter', 'the day', 'the night', 'the weekend'),
    (
      'was cold and windy',
      'brought heavy rain',
      'started with fog',
      'was warm and sunny',
      'ended with a storm',
      'was full of snow',
      'was grey and cloudy',
    ),
  ),
  'music': (
    ('the singer', 'the band', 'my cousin', 'the pianist', 'the choir', 'the young drummer'),
    (
      'sang a song',
      'played the guitar',
      'wrote a melody',
      'gave a concert',
      'recorded an album',
      'tuned the violin',
      'practiced the rhythm',
    ),
  ),
  'school': (
    ('the teacher', 'the pupil', 'the whole class', 'a student', 'the principal', 'the girl'),
    (
      'did the homework',
      'passed the exam',
      'wrote on the blackboard',
      'learned to spell',
      'studied for the test',
      'read the textbook',
      'went to the lesson',
    ),
  ),
}

# Short opinions: what is judged, and words of praise and blame for it.
OPINIONS = {
  'film': (
    words('film movie story plot ending cast'),
    words('wonderful moving brilliant funny exciting touching'),
    words('boring terrible silly dull awful weak'),
  ),
  'hotel': (
    words('room hotel bed breakfast pool view'),
    words('lovely comfortable clean great superb charming'),
    words('dirty noisy horrible cold cramped shabby'),
  ),
  'phone': (
    words('phone battery camera screen speaker charger'),
    words('reliable fast excellent solid sharp handy'),
    words('slow faulty useless poor broken fragile'),
  ),
  'book': (
    words('book novel chapter poem author style'),
    words('gripping beautiful clever delightful vivid inspiring'),
    words('tedious confusing shallow predictable clumsy lifeless'),
  ),
  'service': (
    words('service staff manager driver clerk guide'),
    words('friendly helpful polite quick patient kind'),
    words('rude lazy unfriendly careless arrogant late'),
  ),
  'game': (
    words('game level music map controller tutorial'),
    words('fun addictive smooth stunning original fair'),
    words('buggy repetitive unfair ugly annoying laggy'),
  ),
  'library': (
    words('library function module interface parser api'),
    words('elegant robust efficient stable readable flexible'),
    words('unstable bloated fragile unreadable inefficient broken'),
  ),
  'restaurant': (
    words('soup pizza steak pasta dessert salad'),
    words('delicious tasty fresh perfect juicy fantastic'),
    words('burnt tasteless stale greasy soggy disgusting'),
  ),
}
