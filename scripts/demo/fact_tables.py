"""Facts that the demo tasks ask for, written by hand: countries, elements, animals, tools."""

from task_tables import forms, grouped, rows, words

# country, capital, continent, main language ('-' where there are several), people ('-': not asked)
COUNTRIES = rows("""
  Afghanistan | Kabul | Asia | - | Afghan
  Albania | Tirana | Europe | Albanian | Albanian
  Algeria | Algiers | Africa | Arabic | Algerian
  Angola | Luanda | Africa | Portuguese | Angolan
  Argentina | Buenos Aires | South America | Spanish | Argentine
  Armenia | Yerevan | - | Armenian | Armenian
  Australia | Canberra | Oceania | English | Australian
  Austria | Vienna | Europe | German | Austrian
  Bangladesh | Dhaka | Asia | Bengali | Bangladeshi
  Belarus | Minsk | Europe | - | Belarusian
  Belgium | Brussels | Europe | - | Belgian
  Botswana | Gaborone | Africa | - | -
  Brazil | Brasilia | South America | Portuguese | Brazilian
  Bulgaria | Sofia | Europe | Bulgarian | Bulgarian
  Cambodia | Phnom Penh | Asia | Khmer | Cambodian
  Cameroon | Yaounde | Africa | - | Cameroonian
  Canada | Ottawa | North America | - | Canadian
  Chile | Santiago | South America | Spanish | Chilean
  China | Beijing | Asia | Chinese | Chinese
  Colombia | Bogota | South America | Spanish | Colombian
  Costa Rica | San Jose | North America | Spanish | Costa Rican
  Croatia | Zagreb | Europe | Croatian | Croatian
  Cuba | Havana | North America | Spanish | Cuban
  Denmark | Copenhagen | Europe | Danish | Danish
  Ecuador | Quito | South America | Spanish | Ecuadorian
  Egypt | Cairo | Africa | Arabic | Egyptian
  Estonia | Tallinn | Europe | Estonian | Estonian
  Ethiopia | Addis Ababa | Africa | - | Ethiopian
  Fiji | Suva | Oceania | - | Fijian
  Finland | Helsinki | Europe | Finnish | Finnish
  France | Paris | Europe | French | French
  Georgia | Tbilisi | - | Georgian | Georgian
  Germany | Berlin | Europe | German | German
  Ghana | Accra | Africa | English | Ghanaian
  Greece | Athens | Europe | Greek | Greek
  Haiti | Port-au-Prince | North America | - | Haitian
  Honduras | Tegucigalpa | North America | Spanish | Honduran
  Hungary | Budapest | Europe | Hungarian | Hungarian
  Iceland | Reykjavik | Europe | Icelandic | Icelandic
  India | New Delhi | Asia | - | Indian
  Iran | Tehran | Asia | Persian | Iranian
  Iraq | Baghdad | Asia | - | Iraqi
  Ireland | Dublin | Europe | - | Irish
  Italy | Rome | Europe | Italian | Italian
  Jamaica | Kingston | North America | English | Jamaican
  Japan | Tokyo | Asia | Japanese | Japanese
  Jordan | Amman | Asia | Arabic | Jordanian
  Kenya | Nairobi | Africa | - | Kenyan
  Laos | Vientiane | Asia | Lao | Laotian
  Latvia | Riga | Europe | Latvian | Latvian
  Lebanon | Beirut | Asia | Arabic | Lebanese
  Libya | Tripoli | Africa | Arabic | Libyan
  Lithuania | Vilnius | Europe | Lithuanian | Lithuanian
  Madagascar | Antananarivo | Africa | - | Malagasy
  Malaysia | Kuala Lumpur | Asia | Malay | Malaysian
  Mali | Bamako | Africa | - | Malian
  Malta | Valletta | Europe | Maltese | Maltese
  Mexico | Mexico City | North America | Spanish | Mexican
  Moldova | Chisinau | Europe | Romanian | Moldovan
  Mongolia | Ulaanbaatar | Asia | Mongolian | Mongolian
  Morocco | Rabat | Africa | Arabic | Moroccan
  Mozambique | Maputo | Africa | Portuguese | Mozambican
  Namibia | Windhoek | Africa | English | Namibian
  Nepal | Kathmandu | Asia | Nepali | Nepali
  Netherlands | Amsterdam | Europe | Dutch | Dutch
  New Zealand | Wellington | Oceania | English | -
  Nicaragua | Managua | North America | Spanish | Nicaraguan
  Nigeria | Abuja | Africa | English | Nigerian
  North Korea | Pyongyang | Asia | Korean | North Korean
  Norway | Oslo | Europe | Norwegian | Norwegian
  Oman | Muscat | Asia | Arabic | Omani
  Pakistan | Islamabad | Asia | Urdu | Pakistani
  Papua New Guinea | Port Moresby | Oceania | - | -
  Paraguay | Asuncion | South America | - | Paraguayan
  Peru | Lima | South America | Spanish | Peruvian
  Philippines | Manila | Asia | - | Filipino
  Poland | Warsaw | Europe | Polish | Polish
  Portugal | Lisbon | Europe | Portuguese | Portuguese
  Qatar | Doha | Asia | Arabic | Qatari
  Romania | Bucharest | Europe | Romanian | Romanian
  Russia | Moscow | - | Russian | Russian
  Rwanda | Kigali | Africa | - | Rwandan
  Saudi Arabia | Riyadh | Asia | Arabic | Saudi
  Senegal | Dakar | Africa | French | Senegalese
  Serbia | Belgrade | Europe | Serbian | Serbian
  Slovakia | Bratislava | Europe | Slovak | Slovak
  Slovenia | Ljubljana | Europe | Slovene | Slovenian
  Somalia | Mogadishu | Africa | Somali | Somali
  South Korea | Seoul | Asia | Korean | South Korean
  Spain | Madrid | Europe | Spanish | Spanish
  Sudan | Khartoum | Africa | Arabic | Sudanese
  Sweden | Stockholm | Europe | Swedish | Swedish
  Switzerland | Bern | Europe | - | Swiss
  Syria | Damascus | Asia | Arabic | Syrian
  Thailand | Bangkok | Asia | Thai | Thai
  Tunisia | Tunis | Africa | Arabic | Tunisian
  Turkey | Ankara | - | Turkish | Turkish
  Uganda | Kampala | Africa | - | Ugandan
  Ukraine | Kyiv | Europe | Ukrainian | Ukrainian
  United Kingdom | London | Europe | English | British
  United States | Washington | North America | English | American
  Uruguay | Montevideo | South America | Spanish | Uruguayan
  Uzbekistan | Tashkent | Asia | Uzbek | Uzbek
  Venezuela | Caracas | South America | Spanish | Venezuelan
  Vietnam | Hanoi | Asia | Vietnamese | Vietnamese
  Yemen | Sanaa | Asia | Arabic | Yemeni
  Zambia | Lusaka | Africa | English | Zambian
  Zimbabwe | Harare | Africa | - | Zimbabwean
""")
# element, symbol
ELEMENTS = forms("""
  hydrogen/H helium/He lithium/Li beryllium/Be boron/B carbon/C nitrogen/N oxygen/O fluorine/F
  neon/Ne sodium/Na magnesium/Mg aluminium/Al silicon/Si phosphorus/P sulfur/S chlorine/Cl
  argon/Ar potassium/K calcium/Ca scandium/Sc titanium/Ti vanadium/V chromium/Cr manganese/Mn
  iron/Fe cobalt/Co nickel/Ni copper/Cu zinc/Zn gallium/Ga germanium/Ge arsenic/As selenium/Se
  bromine/Br krypton/Kr rubidium/Rb strontium/Sr yttrium/Y zirconium/Zr niobium/Nb molybdenum/Mo
  ruthenium/Ru rhodium/Rh palladium/Pd silver/Ag cadmium/Cd indium/In tin/Sn antimony/Sb
  tellurium/Te iodine/I xenon/Xe caesium/Cs barium/Ba lanthanum/La cerium/Ce neodymium/Nd
  tungsten/W osmium/Os iridium/Ir platinum/Pt gold/Au mercury/Hg thallium/Tl lead/Pb bismuth/Bi
  polonium/Po radon/Rn francium/Fr radium/Ra thorium/Th uranium/U plutonium/Pu
""")
# animal, its young
YOUNG = forms("""
  dog/puppy cat/kitten cow/calf horse/foal sheep/lamb pig/piglet goat/kid hen/chick duck/duckling
  goose/gosling swan/cygnet lion/cub bear/cub tiger/cub deer/fawn kangaroo/joey koala/joey
  frog/tadpole butterfly/caterpillar elephant/calf whale/calf dolphin/calf giraffe/calf hippo/calf
  buffalo/calf zebra/foal donkey/foal owl/owlet eagle/eaglet seal/pup leopard/cub panda/cub
""")
# animal, its sound
SOUNDS = forms("""
  dog/bark cat/meow cow/moo horse/neigh sheep/bleat goat/bleat pig/oink duck/quack hen/cluck
  rooster/crow lion/roar tiger/roar wolf/howl owl/hoot frog/croak bee/buzz mosquito/buzz
  snake/hiss mouse/squeak donkey/bray elephant/trumpet goose/honk pigeon/coo dove/coo
  turkey/gobble bird/chirp cricket/chirp crow/caw
""")
# usual color | things
THING_COLORS = grouped("""
  white | snow, milk, salt, flour, cotton, a swan, chalk, a polar bear
  red | blood, a tomato, a strawberry, a cherry, a ruby, a fire engine, a raspberry, a ladybird
  green | grass, a leaf, spinach, lettuce, broccoli, an emerald, a cucumber, a frog
  yellow | a banana, a lemon, butter, a canary, corn, a sunflower, mustard, an egg yolk
  black | coal, tar, a crow, a raven, a tyre, soot, a panther, a blackbird
""")
# currency | countries
CURRENCIES = grouped("""
  yen | Japan
  pound | the United Kingdom, Egypt
  dollar | the United States, Canada, Australia, New Zealand
  rupee | India, Pakistan, Nepal
  yuan | China
  ruble | Russia
  peso | Mexico, Argentina, Chile, Colombia, the Philippines
  real | Brazil
  krona | Sweden
  krone | Norway, Denmark
  franc | Switzerland, Senegal
  lira | Turkey
  euro | France, Germany, Italy, Spain, Portugal, Greece, Ireland, Finland, Austria
  zloty | Poland
  forint | Hungary
  won | South Korea
  baht | Thailand
  dong | Vietnam
  rand | South Africa
  hryvnia | Ukraine
  shekel | Israel
  ringgit | Malaysia
  shilling | Kenya
  dirham | Morocco
""")
# male, female
GENDERS = forms("""
  king/queen prince/princess father/mother son/daughter brother/sister uncle/aunt nephew/niece
  husband/wife grandfather/grandmother grandson/granddaughter boy/girl man/woman gentleman/lady
  actor/actress waiter/waitress host/hostess hero/heroine god/goddess duke/duchess emperor/empress
  lion/lioness tiger/tigress bull/cow rooster/hen ram/ewe stallion/mare steward/stewardess
  wizard/witch stepfather/stepmother groom/bride
""")
# place of work | people
WORKPLACES = grouped("""
  hospital | a doctor, a nurse, a surgeon
  school | a teacher, a headmaster
  farm | a farmer, a shepherd
  restaurant | a cook, a waiter, a chef
  court | a judge, a lawyer
  ship | a sailor, a captain
  library | a librarian
  church | a priest
  plane | a pilot, a flight attendant
  mine | a miner
  theatre | an actor, a ballet dancer
  bakery | a baker
  bank | a banker
  laboratory | a scientist, a lab assistant
  garage | a mechanic
  beach | a lifeguard
  zoo | a zookeeper
  university | a professor, a lecturer
  flower shop | a florist
  bookshop | a bookseller
""")
# use | tools
USES = grouped("""
  cutting | a knife, scissors, a saw
  writing | a pen, a pencil
  painting | a brush
  baking | an oven
  sweeping | a broom
  digging | a shovel, a spade
  sewing | a needle, a thread
  calling | a phone
  taking photos | a camera
  sleeping | a bed, a pillow
  sitting | a chair, a bench, a sofa
  drinking | a cup, a glass, a mug
  reading | a book, a novel
  drying | a towel
  measuring | a ruler
  weighing | a scale
  telling the time | a clock, a watch
  giving light | a lamp, a candle
  opening locks | a key
  washing | soap, shampoo
  eating | a fork, a spoon
  sticking | glue
  shaving | a razor
  cooling | a fridge
  heating | a heater
""")
# amount, the same in the smaller unit
UNITS = forms("""
  minute/60/seconds hour/60/minutes day/24/hours week/7/days year/12/months decade/10/years
  century/100/years meter/100/centimeters kilometer/1000/meters kilogram/1000/grams
  dozen/12/pieces foot/12/inches yard/3/feet
""")
# room, what stands or lies there
ROOMS = {
  'kitchen': words('spoon fork saucepan kettle oven toaster ladle grater whisk teapot'),
  'office': words('stapler printer desk keyboard notebook calculator whiteboard folder scanner'),
  'garden': words('shovel rake hedge wheelbarrow lawnmower flowerbed hosepipe greenhouse trowel'),
  'bathroom': words('toothbrush shampoo bathtub shower soap toilet towel washbasin toothpaste'),
}
