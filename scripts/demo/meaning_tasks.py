"""Classification tasks by meaning: groups of words, opinions, topics, key words.

Label words are part of the task: the same groups come back under other labels, and the same labels
with their meaning exchanged, so that only the context tells what to write.
"""

import random
from collections.abc import Sequence

import fact_tables as facts
import task_kinds as kinds
import task_tables as tables
from task_kinds import Task, TextDraw


def tasks() -> list[Task]:
  """Training and held-out tasks."""
  return [*word_groups(), *opinions(), *topics(), *keyed_groups()]


# Groups of words.

FELT = ('{}', 'i am {}', 'he feels {}', 'they were {}', 'she looked {}')
DONE = ('{}', 'to {}', 'they {}', 'we can {}', 'you {}', 'i {} too')
HELD_OUT = ('they talked about the {}', 'she asked about the {}', 'tell me about the {}',
            'there is a story about the {}', 'look at the {}', 'the child drew the {}')  # fmt: skip

LIVING = tables.ANIMALS + tables.TREES + tables.BIRDS
LIFELESS = tables.TOOLS + tables.FURNITURE + tables.METALS

# (frames, definition, {label: words})
NAMED_GROUPS = (
  (kinds.SHORT, 'Is it an animal or a plant?', {'animal': tables.ANIMALS, 'plant': tables.FLOWERS}),
  (kinds.SEEN, 'Say "fruit" or "vegetable".',
   {'fruit': tables.FRUITS, 'vegetable': tables.VEGETABLES}),
  (kinds.SHORT, 'Decide whether it is a bird or a fish.',
   {'bird': tables.BIRDS, 'fish': tables.FISH}),
  (kinds.SEEN, 'Is it a tool or an instrument?',
   {'tool': tables.TOOLS, 'instrument': tables.INSTRUMENTS}),
  (kinds.SAID, 'Tell sports from jobs.', {'sport': tables.SPORTS, 'job': tables.JOBS}),
  (kinds.SAID, 'Can you eat it or drink it?', {'eat': tables.FOODS, 'drink': tables.DRINKS}),
  (kinds.SHORT, 'Is the word a part of the body or a member of the family?',
   {'body': tables.BODY, 'family': tables.FAMILY}),
  (kinds.SAID, 'Decide whether the name is a country or a city.',
   {'country': tuple(row[0] for row in facts.COUNTRIES[:40]), 'city': tables.CITIES}),
  (kinds.SAID, 'Answer "metal" or "fabric".', {'metal': tables.METALS, 'fabric': tables.FABRICS}),
  (kinds.SHORT, 'Name the kind of the creature: mammal, bird, fish or insect.',
   {'mammal': tables.ANIMALS, 'bird': tables.BIRDS, 'fish': tables.FISH, 'insect': tables.INSECTS}),
  (kinds.SEEN, 'Was it built or is it a part of nature?',
   {'built': tables.BUILDINGS, 'nature': tables.NATURE}),
  (kinds.SEEN, 'Does it belong to a computer or to cooking?',
   {'computer': tables.COMPUTING, 'cooking': tables.KITCHENWARE}),
  (kinds.SHORT, 'Is it alive? Answer "alive" or "object".', {'alive': LIVING, 'object': LIFELESS}),
  (kinds.SAID, 'Does the word name a shape or a color?',
   {'shape': tables.SHAPES, 'color': tables.COLORS}),
  (FELT, 'Is this a pleasant or an unpleasant feeling?',
   {'pleasant': tables.PLEASANT, 'unpleasant': tables.UNPLEASANT}),
  (kinds.SAID, 'Does the word mean "big" or "small"? Answer with that word.',
   {'big': tables.BIG[1:], 'small': tables.SMALL[1:]}),
  (kinds.SHORT, 'Is the thing hot or cold?', {'hot': tables.HOT, 'cold': tables.COLD}),
  (DONE, 'Does the verb mean "move" or "speak"?',
   {'move': tables.MOTION[1:], 'speak': tables.SPEECH}),
  (kinds.SAID, 'Is the word a noun, a verb or an adjective?',
   {'noun': tables.THINGS[:9], 'verb': tables.CLEAR_VERBS, 'adjective': tables.ADJECTIVES[:9]}),
  (kinds.SHORT, 'Is it a person, a place or a thing?',
   {'person': tables.JOBS, 'place': tables.BUILDINGS, 'thing': tables.TOOLS}),
  (kinds.SHORT, 'Would you find it inside a house or outside?',
   {'inside': tables.FURNITURE, 'outside': tables.NATURE}),
  (kinds.SHORT, 'Is it heavy or light?', {'heavy': tables.HEAVY, 'light': tables.LIGHT}),
  (kinds.SEEN, 'Say whether the person is male or female.',
   {'male': tables.MEN, 'female': tables.WOMEN}),
  (kinds.SAID, 'Is it the name of a person or of a city?',
   {'person': tables.MEN_NAMES + tables.WOMEN_NAMES, 'city': tables.CITIES}),
  (kinds.SEEN, 'Can it fly? Say "flies" or "walks".',
   {'flies': tables.FLYING, 'walks': tables.ANIMALS}),
  (kinds.SEEN, 'Is it a farm animal or a wild one?',
   {'farm': tables.FARM_ANIMALS, 'wild': tables.WILD_ANIMALS}),
  (kinds.SAID, 'Is the word about weather or about time? Answer "sky" or "time".',
   {'sky': tables.WEATHER, 'time': tables.TIMES}),
  (kinds.SAID, 'Does the word belong to mathematics or to texts?',
   {'math': tables.MATHS, 'text': tables.TEXTS}),
  (kinds.SEEN, 'Does it store data or send it? Answer "store" or "send".',
   {'store': tables.STORAGE, 'send': tables.NETWORK}),
  (kinds.SAID, 'Is it the name of a woman or of a man? Answer "she" or "he".',
   {'he': tables.MEN_NAMES, 'she': tables.WOMEN_NAMES}),
)  # fmt: skip

# (label, words, label, words): groups whose labels say nothing about their members
SYMBOL_GROUPS = (
  ('foo', tables.ANIMALS, 'bar', tables.TOOLS),
  ('bar', tables.ANIMALS, 'foo', tables.TOOLS),
  ('left', tables.FRUITS, 'right', tables.JOBS),
  ('right', tables.FRUITS, 'left', tables.JOBS),
  ('up', tables.VEHICLES, 'down', tables.ANIMALS),
  ('down', tables.VEHICLES, 'up', tables.FOODS),
  ('on', tables.CLOTHES, 'off', tables.FOODS),
  ('off', tables.CLOTHES, 'on', tables.BIRDS),
  ('alpha', tables.SPORTS, 'beta', tables.INSTRUMENTS),
  ('beta', tables.SPORTS, 'gamma', tables.METALS),
  ('x', tables.FURNITURE, 'y', tables.DRINKS),
  ('y', tables.BODY, 'x', tables.BUILDINGS),
  ('yes', tables.BIRDS, 'no', tables.TREES),
  ('no', tables.BIRDS, 'yes', tables.TOOLS),
  ('true', tables.FOODS, 'false', tables.FURNITURE),
  ('false', tables.FRUITS, 'true', tables.VEGETABLES),
  ('zero', tables.MATHS, 'one', tables.COMPUTING),
  ('one', tables.FAMILY, 'zero', tables.JOBS),
  ('sun', tables.COMPUTING, 'moon', tables.TEXTS),
  ('key', tables.KITCHENWARE, 'lock', tables.CLOTHES),
  ('north', tables.FISH, 'south', tables.INSECTS),
  ('train', tables.NATURE, 'test', tables.FURNITURE),
  ('low', tables.FLOWERS, 'high', tables.TREES),
  ('high', tables.WEATHER, 'low', tables.FABRICS),
  ('inner', tables.BODY, 'outer', tables.CLOTHES),
  ('read', tables.STORAGE, 'write', tables.MATHS),
  ('head', tables.NETWORK, 'tail', tables.TEXTS),
  ('row', tables.MOTION, 'column', tables.SPEECH),
  ('column', tables.TIMES, 'row', tables.SHAPES),
  ('fast', tables.VEHICLES, 'slow', tables.FURNITURE),
  ('a', tables.CITIES, 'b', tables.METALS),
  ('b', tables.CITIES, 'a', tables.INSTRUMENTS),
)
SYMBOL_TRIPLES = (
  {'red': tables.ANIMALS, 'blue': tables.FOODS, 'green': tables.TOOLS},
  {'cat': tables.JOBS, 'dog': tables.FURNITURE, 'fox': tables.FRUITS},
  {'1': tables.VEHICLES, '2': tables.CLOTHES, '3': tables.BODY},
  {'2': tables.BIRDS, '3': tables.SPORTS, '1': tables.METALS},
  {'p': tables.INSTRUMENTS, 'q': tables.DRINKS, 'r': tables.FAMILY},
  {'gold': tables.COMPUTING, 'iron': tables.TREES, 'tin': tables.VEGETABLES},
)
ABSTRACT = (tables.MOTION, tables.TIMES, tables.CITIES, tables.SPORTS, tables.MATHS, tables.WEATHER,
            tables.METALS, tables.DRINKS)  # fmt: skip  # hardly seen, liked or shown
SYMBOL_WORDINGS = (
  'Each input belongs to one of these groups: {names}. Name its group.',
  'Sort the words. The groups are called {names}; the examples show which is which.',
  'Answer with one of {names}, as in the examples.',
  'The answer is one of {names}. It depends on what kind of thing the word is.',
  'Give the code of the word: {names}.',
)
# definition, groups: pairs and labels that no training task has
GROUPS_HELD_OUT = (
  ('Is it a vehicle or something to wear? Answer "engine" or "cloth".',
   {'engine': tables.VEHICLES, 'cloth': tables.CLOTHES}),
  ('Sort the words into "client" and "server", as in the examples.',
   {'client': tables.ANIMALS, 'server': tables.TOOLS}),
  ('Each input belongs to one of the groups "source" and "target". Name its group.',
   {'source': tables.FRUITS, 'target': tables.FURNITURE}),
  ('In which place would you find it: kitchen, office, garden or bathroom?', facts.ROOMS),
  ('Answer "batch", "tensor" or "device", as in the examples.',
   {'batch': tables.INSTRUMENTS, 'tensor': tables.BIRDS, 'device': tables.DRINKS}),
)  # fmt: skip


def word_groups() -> list[Task]:
  """Groups of words by their meaning, under fitting and under arbitrary labels."""
  made = [_words_task(*row) for row in NAMED_GROUPS]
  symbols = [{a: left, b: right} for a, left, b, right in SYMBOL_GROUPS] + list(SYMBOL_TRIPLES)
  for i, groups in enumerate(symbols):
    names = ', '.join(f'"{label}"' for label in sorted(groups))
    abstract = any(words in ABSTRACT for words in groups.values())
    frames = kinds.SAID if abstract else (kinds.SEEN, kinds.SHORT, kinds.SAID)[i % 3]
    made.append(_words_task(frames, kinds.pick(SYMBOL_WORDINGS, i, names=names), groups))
  return made + [_words_task(HELD_OUT, *row, held_out=True) for row in GROUPS_HELD_OUT]


def _words_task(
  frames: Sequence[str],
  definition: str,
  groups: dict[str, Sequence[str]],
  held_out: bool = False,
) -> Task:
  name = 'group_' + '_or_'.join(kinds.slug(label) for label in groups)
  draws = {label: kinds.members(words, frames) for label, words in groups.items()}
  return kinds.classes(name, 'Text Categorization', definition, draws, held_out)


# Opinions and topics.

# a thing, an adjective, the adjective with its article
OPINION_FRAMES = (
  'the {} is {}',
  'the {} was {}',
  'what {2} {0}',
  'i found the {} {}',
  'a truly {1} {0}',
  'the {} seems {} to me',
  'my friends say the {} is {}',
)
# (subject, label for praise, label for blame, definition)
OPINIONS = (
  ('film', 'positive', 'negative', 'Is the opinion about the film positive or negative?'),
  ('hotel', 'good', 'bad', 'Did the guest find the hotel good or bad?'),
  ('phone', 'happy', 'unhappy', 'Is the buyer of the phone happy or unhappy?'),
  ('book', 'like', 'dislike', 'Does the reader like or dislike the book?'),
  ('service', 'yes', 'no', 'Was the customer content? Answer "yes" or "no".'),
  ('game', 'no', 'yes', 'Is this a complaint about the game? Answer "yes" or "no".'),
  ('hotel', 'blue', 'red', 'Praise is "blue" and blame is "red". Which is it?'),
  ('film', '5', '1', 'How many stars does the film get? Answer "5" or "1".'),
  ('phone', 'b', 'a', 'Answer "a" for a complaint and "b" for praise.'),
  ('library', 'keep', 'remove', 'Should we keep the library or remove it?'),
  ('game', 'up', 'down', 'Is it thumbs up or thumbs down for the game?'),
)
OPINIONS_HELD_OUT = (
  ('restaurant', 'pass', 'fail', 'Does the restaurant pass or fail in this judgement?'),
)


def opinions() -> list[Task]:
  """Praise and blame in short sentences."""
  made = []
  for subject, praise, blame, definition in OPINIONS + OPINIONS_HELD_OUT:
    things, good, bad = tables.OPINIONS[subject]
    groups = {praise: _opinion(things, good), blame: _opinion(things, bad)}
    name = f'opinion_of_{subject}_{kinds.slug(praise)}_or_{kinds.slug(blame)}'
    held_out = subject == 'restaurant'
    made.append(kinds.classes(name, 'Sentiment Analysis', definition, groups, held_out))
  return made


def _opinion(things: Sequence[str], adjectives: Sequence[str]) -> TextDraw:
  def draw(rng: random.Random) -> str:
    thing, adjective = rng.choice(things), rng.choice(adjectives)
    return rng.choice(OPINION_FRAMES).format(thing, adjective, kinds.article(adjective))

  return draw


# {label: topic}
TOPICS = (
  {'sport': 'sport', 'food': 'food'},
  {'travel': 'travel', 'money': 'money'},
  {'computers': 'computers', 'health': 'health'},
  {'animals': 'animals', 'law': 'law'},
  {'sport': 'sport', 'money': 'money', 'law': 'law'},
  {'food': 'food', 'travel': 'travel', 'health': 'health', 'computers': 'computers'},
  {'one': 'sport', 'two': 'law'},
  {'two': 'sport', 'one': 'food'},
  {'up': 'money', 'down': 'animals'},
  {'x': 'travel', 'y': 'computers', 'z': 'health'},
  {'first': 'food', 'second': 'money', 'third': 'travel'},
)
TOPICS_HELD_OUT = ({'weather': 'weather', 'music': 'music', 'school': 'school'},)
TOPIC_WORDINGS = (
  'What is the sentence about? The topics are {names}.',
  'Choose the topic of the sentence: {names}.',
  'Assign the sentence to one of {names}.',
)
TOPIC_CODES = (
  'Sentences are sorted by their topics. The groups are called {names}; see the examples.',
  'Find out which topic is called what ({names}) and name the topic of the sentence.',
)


def topics() -> list[Task]:
  """What a sentence is about."""
  made = []
  for i, groups in enumerate(TOPICS + TOPICS_HELD_OUT):
    wordings = TOPIC_WORDINGS if list(groups) == list(groups.values()) else TOPIC_CODES
    definition = kinds.pick(wordings, i, names=', '.join(f'"{x}"' for x in sorted(groups)))
    draws = {label: _sentence_on(topic) for label, topic in groups.items()}
    name = 'topic_' + '_or_'.join(groups)
    held_out = groups in TOPICS_HELD_OUT
    made.append(kinds.classes(name, 'Text Categorization', definition, draws, held_out))
  return made


TOPIC_FRAMES = ('{} {}', 'they say {} {}', '{} {} again', 'in the end {} {}')


def _sentence_on(topic: str) -> TextDraw:
  beginnings, endings = tables.TOPICS[topic]
  return lambda rng: rng.choice(TOPIC_FRAMES).format(rng.choice(beginnings), rng.choice(endings))


# Key words: one word of the sentence decides.

# {label: key word}
KEYS = (
  {'north': 'red', 'south': 'blue'},
  {'south': 'red', 'north': 'blue'},
  {'tea': 'old', 'milk': 'new', 'juice': 'big'},
  {'open': 'quiet', 'shut': 'broken'},
  {'one': 'long', 'two': 'short', 'three': 'round'},
  {'three': 'clean', 'one': 'dark', 'two': 'heavy'},
  {'a': 'cheap', 'b': 'fresh', 'c': 'wide', 'd': 'thin'},
  {'int': 'old', 'float': 'small', 'string': 'new'},
  {'east': 'soft', 'west': 'empty'},
  {'push': 'long', 'pull': 'short'},
  {'yes': 'blue', 'no': 'red'},
  {'no': 'old', 'yes': 'new'},
)
KEYS_HELD_OUT = ({'public': 'red', 'private': 'green', 'global': 'blue'},)
KEY_FRAMES = (
  '{n} {past} the {key} {o}',
  'the {key} {o} of {n}',
  'one {key} {o} and one {o2}',
  'where is the {key} {o}',
  '{n} likes the {key} {o}',
)
KEY_WORDINGS = (
  'The answer depends on one word of the input: {rules}.',
  'Look for the adjective and answer by this table: {rules}.',
  'Translate the key word of the text: {rules}.',
)


def keyed_groups() -> list[Task]:
  """An adjective in the input decides the label."""
  made = []
  for i, keys in enumerate(KEYS + KEYS_HELD_OUT):
    rules = ', '.join(f'{key} -> {label}' for label, key in sorted(keys.items()))
    draws = {label: _keyed(key) for label, key in keys.items()}
    name = 'key_' + '_'.join(f'{key}_is_{label}' for label, key in keys.items())
    definition = kinds.pick(KEY_WORDINGS, i, rules=rules)
    held_out = keys in KEYS_HELD_OUT
    made.append(kinds.classes(name, 'Text Matching', definition, draws, held_out))
  return made


def _keyed(key: str) -> TextDraw:
  def draw(rng: random.Random) -> str:
    o, o2 = rng.sample(tables.THINGS, 2)
    return rng.choice(KEY_FRAMES).format(
      key=key, o=o, o2=o2, n=rng.choice(tables.PEOPLE), past=rng.choice(tables.VERBS)[1]
    )

  return draw
