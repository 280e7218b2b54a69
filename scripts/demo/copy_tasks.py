"""Tasks that copy the input and add to it: words in front, frames, separators, replacements."""

import random

import task_kinds as kinds
import task_tables as tables
from task_kinds import Task, TextDraw


def tasks() -> list[Task]:
  """Training and held-out tasks."""
  return [
    *affixes(),
    *wrappings(),
    *templates(),
    *two_slots(),
    *joins(),
    *replacements(),
    *insertions(),
  ]


SOURCES = (kinds.noun_phrase, kinds.verb_phrase, kinds.clause, kinds.phrase, kinds.state)

# Words in front, behind and around.

IN_FRONT = tables.words('please note maybe also today hello finally sorry perhaps next yes print')
IN_FRONT_2 = ('once again', 'by the way', 'in short')
IN_FRONT_HELD_OUT = ('warning', 'for example')
BEHIND = tables.words('again too here later together twice today now alone')
BEHIND_2 = ('at home', 'every day', 'by hand', 'for free')
BEHIND_HELD_OUT = ('instead', 'if possible')

IN_FRONT_WORDINGS = (
  'Write "{a}" in front of the given words.',
  'You are given a short text. Repeat it with "{a}" added at the beginning.',
  'Copy the input, but let it start with "{a}".',
  'Put "{a}" before the text and change nothing else.',
  'Output "{a}" followed by the input.',
)
BEHIND_WORDINGS = (
  'Write "{a}" after the given words.',
  'You are given a short text. Repeat it with "{a}" added at the end.',
  'Copy the input, but let it finish with "{a}".',
  'Append "{a}" to the text and change nothing else.',
  'Output the input followed by "{a}".',
)


def affixes() -> list[Task]:
  """A word or two in front of the input, or behind it."""
  made = []
  for place, wordings, train, test in (
    ('before', IN_FRONT_WORDINGS, IN_FRONT + IN_FRONT_2, IN_FRONT_HELD_OUT),
    ('after', BEHIND_WORDINGS, BEHIND + BEHIND_2, BEHIND_HELD_OUT),
  ):
    for i, affix in enumerate(train + test):
      pattern = f'{affix} {{}}' if place == 'before' else f'{{}} {affix}'
      held_out = (affix,) if affix in test else None
      name = f'put_{kinds.slug(affix)}_{place}'
      definition = kinds.pick(wordings, i, a=affix)
      made.append(
        kinds.mapped(name, definition, SOURCES[i % len(SOURCES)], pattern.format, held_out)
      )
  return made


AROUND = (
  ('begin', 'end'),
  ('start', 'stop'),
  ('left', 'right'),
  ('well', 'then'),
  ('dear', 'yours'),
  ('one', 'two'),
  ('look', 'there'),
  ('good', 'good'),
)
AROUND_HELD_OUT = (('enter', 'exit'),)
BRACKETS = (
  ('(', ')', 'round brackets'),
  ('[', ']', 'square brackets'),
  ('"', '"', 'double quotes'),
  ('<', '>', 'angle brackets'),
  ('*', '*', 'stars'),
  ('-- ', ' --', 'double dashes'),
)
AROUND_WORDINGS = (
  'Put the word "{a}" before the input and the word "{b}" after it.',
  'Repeat the text between "{a}" and "{b}".',
  'Write "{a}", then the given text, then "{b}".',
)
BRACKET_WORDINGS = (
  'Put the given text in {name}.',
  'Repeat the input inside {name}.',
  'Surround the words with {name}.',
)


def wrappings() -> list[Task]:
  """Words or brackets around the input."""
  made = []
  for i, (a, b) in enumerate(AROUND + AROUND_HELD_OUT):
    held_out = (a, b) if (a, b) in AROUND_HELD_OUT else None
    name, definition = f'wrap_in_{a}_and_{b}', kinds.pick(AROUND_WORDINGS, i, a=a, b=b)
    made.append(kinds.mapped(name, definition, SOURCES[i % 4], f'{a} {{}} {b}'.format, held_out))
  for i, (a, b, name) in enumerate(BRACKETS):
    definition = kinds.pick(BRACKET_WORDINGS, i, name=name)
    task = f'wrap_in_{kinds.slug(name)}'
    made.append(kinds.mapped(task, definition, SOURCES[i % 4], lambda text, a=a, b=b: a + text + b))
  return made


# (pattern, what the input is)
TEMPLATES = (
  ('the name is {}', kinds.noun_phrase),
  ('return {}', kinds.noun_phrase),
  ('import {} from here', kinds.plain_word),
  ('{} was not found', kinds.noun_phrase),
  ('see also {}', kinds.noun_phrase),
  ('no {} left', kinds.plain_word),
  ('default is {}', kinds.noun_phrase),
  ('where is {}', kinds.noun_phrase),
  ('{} is not supported', kinds.plain_word),
  ('a list of {} values', kinds.plain_word),
  ('do not {}', kinds.verb_phrase),
  ('we want to {}', kinds.verb_phrase),
  ('it is time to {}', kinds.verb_phrase),
  ('i think that {}', kinds.state),
  ('we know that {}', kinds.clause),
  ('tom said that {}', kinds.state),
  ('it is true that {}', kinds.clause),
  ('perhaps {} and perhaps not', kinds.state),
)
TEMPLATES_HELD_OUT = (
  ('{} is deprecated', kinds.noun_phrase, ('deprecated',)),
  ('missing {} in config', kinds.noun_phrase, ('missing', 'config')),
  ('nobody believes that {}', kinds.clause, ('nobody', 'believes')),
)
TEMPLATE_WORDINGS = (
  'Put the input in place of the dots: {dots}',
  'Make a sentence of the form: {dots}',
  'Write the given words into the frame "{dots}"',
  'Fill the gap of "{dots}" with the input.',
)


def templates() -> list[Task]:
  """The input put into a fixed frame."""
  made = []
  everything = [(*row, None) for row in TEMPLATES] + list(TEMPLATES_HELD_OUT)
  for i, (pattern, source, held_out) in enumerate(everything):
    definition = kinds.pick(TEMPLATE_WORDINGS, i, dots=pattern.format('...'))
    name = f'frame_{kinds.slug(pattern)}'
    made.append(
      kinds.mapped(name, definition, source, pattern.format, held_out, 'Sentence Composition')
    )
  return made


# patterns for the two or three words of a comma list
TWO_SLOTS = (
  '{0} of {1}',
  '{1} of {0}',
  '{0} and {1}',
  '{1} then {0}',
  'from {0} to {1}',
  'between {1} and {0}',
  '{0} without {1}',
  '{1}: {0}',
  'the {0} has the {1}',
  'move the {1} to the {0}',
  '{0} is not {1}',
  'either {0} or {1}',
)
TWO_SLOTS_HELD_OUT = (
  ('swap {1} for {0}', ('swap',)),
  ('{0} depends on {1}', ('depends',)),
)
TWO_SLOT_WORDINGS = (
  'You are given two words, A and B. Write: {dots}',
  'The input holds a first word A and a second word B. Output "{dots}" for them.',
  'Combine the two words A, B as in: {dots}',
)


def two_slots() -> list[Task]:
  """Two words put into a frame, in their order or in the other one."""
  made = []
  for i, (pattern, held_out) in enumerate(
    [(pattern, None) for pattern in TWO_SLOTS] + list(TWO_SLOTS_HELD_OUT)
  ):

    def draw(rng: random.Random, pattern: str = pattern) -> tuple[str, str]:
      a, b = kinds.some_words(rng, 2)
      return f'{a}, {b}', pattern.format(a, b)

    definition = kinds.pick(TWO_SLOT_WORDINGS, i, dots=pattern.format('A', 'B'))
    name = f'combine_{kinds.slug(pattern.format("a", "b"))}'
    made.append(kinds.rule(name, 'Data to Text', definition, draw, held_out))
  return made


SEPARATORS = (
  ('-', 'hyphens'),
  ('_', 'underscores'),
  ('.', 'dots'),
  ('/', 'slashes'),
  (' + ', 'plus signs'),
  (' and ', 'the word "and"'),
  (' or ', 'the word "or"'),
  (' then ', 'the word "then"'),
  (' not ', 'the word "not"'),
  (' is ', 'the word "is"'),
)
SEPARATORS_HELD_OUT = ((' versus ', 'the word "versus"'),)
JOIN_WORDINGS = (
  'Join the given words with {what}.',
  'Put {what} between the words.',
  'Write the words again with {what} in between.',
)


def joins() -> list[Task]:
  """Words joined with a sign or a word, and taken apart again."""
  made = []
  for i, (separator, what) in enumerate(SEPARATORS + SEPARATORS_HELD_OUT):
    held_out = (separator.strip(),) if (separator, what) in SEPARATORS_HELD_OUT else None
    made.append(
      kinds.mapped(
        f'join_with_{kinds.slug(what)}',
        kinds.pick(JOIN_WORDINGS, i, what=what),
        kinds.line(2, 3),
        lambda text, separator=separator: separator.join(text.split()),
        held_out,
      )
    )
  for separator, what in SEPARATORS[1:3]:

    def draw(rng: random.Random, separator: str = separator) -> tuple[str, str]:
      items = kinds.some_words(rng, 2, 3)
      return separator.join(items), ' '.join(items)

    definition = f'The words of the input are joined with {what}. Write them with spaces.'
    made.append(kinds.rule(f'split_at_{kinds.slug(what)}', kinds.EXECUTION, definition, draw))
  return made


# Changing one word of a sentence.

REPLACEMENTS = (
  ('the', 'a'),
  ('red', 'blue'),
  ('old', 'new'),
  ('box', 'file'),
  ('is', 'was'),
  ('and', 'or'),
  ('big', 'great'),
  ('my', 'your'),
  ('tom', 'anna'),
  ('value', 'number'),
)
REPLACEMENTS_HELD_OUT = (('small', 'huge'),)
REPLACE_WORDINGS = (
  'Replace the word "{a}" by "{b}".',
  'Copy the text, writing "{b}" wherever it says "{a}".',
  'Change "{a}" to "{b}" and keep the rest.',
)


def replacements() -> list[Task]:
  """One word replaced by another, or left out."""
  made = []
  for i, (a, b) in enumerate(REPLACEMENTS + REPLACEMENTS_HELD_OUT):
    held_out = (b,) if (a, b) in REPLACEMENTS_HELD_OUT else None

    def change(text: str, a: str = a, b: str = b) -> str:
      return ' '.join(b if word == a else word for word in text.split())

    name, definition = f'replace_{a}_by_{b}', kinds.pick(REPLACE_WORDINGS, i, a=a, b=b)
    category = 'Sentence Perturbation'
    made.append(kinds.mapped(name, definition, _sentence_with(a), change, held_out, category))
  for i, (word, held_out) in enumerate(
    (('very', None), ('please', None), ('just', None), ('quite', None))
  ):

    def draw(rng: random.Random, word: str = word) -> tuple[str, str]:
      plain = rng.choice((kinds.noun_phrase, kinds.state, kinds.clause))(rng).split()
      place = rng.randint(0, len(plain))
      return ' '.join(plain[:place] + [word] + plain[place:]), ' '.join(plain)

    wordings = ('Remove the word "{a}" from the text.', 'Write the line without "{a}".')
    definition = kinds.pick(wordings, i, a=word)
    made.append(kinds.rule(f'remove_{word}', 'Sentence Perturbation', definition, draw, held_out))
  return made


def _sentence_with(word: str) -> TextDraw:
  def draw(rng: random.Random) -> str:
    if word == 'and':
      return f'{kinds.noun_phrase(rng)} and {kinds.noun_phrase(rng)}'
    for _ in range(1000):
      text = rng.choice((kinds.noun_phrase, kinds.verb_phrase, kinds.clause, kinds.state))(rng)
      if word in text.split():
        return text
    raise ValueError(f'no sentence holds "{word}"')

  return draw


INSERTIONS = ('always', 'often', 'usually', 'sometimes', 'also', 'still')
INSERTIONS_HELD_OUT = ('never',)
INSERT_WORDINGS = (
  'Put "{a}" before the verb of the sentence.',
  'Add the word "{a}" after the name.',
  'Say that this "{a}" happens, by putting the word in front of the verb.',
)


def insertions() -> list[Task]:
  """An adverb in front of the verb."""
  made = []
  for i, adverb in enumerate(INSERTIONS + INSERTIONS_HELD_OUT):

    def draw(rng: random.Random, adverb: str = adverb) -> tuple[str, str]:
      name, verb, rest = _present(rng)
      return f'{name} {verb} {rest}', f'{name} {adverb} {verb} {rest}'

    held_out = (adverb,) if adverb in INSERTIONS_HELD_OUT else None
    definition = kinds.pick(INSERT_WORDINGS, i, a=adverb)
    category = 'Sentence Perturbation'
    made.append(kinds.rule(f'insert_{adverb}', category, definition, draw, held_out))
  return made


def _present(rng: random.Random) -> tuple[str, str, str]:
  verb = kinds.third(rng.choice(tables.VERBS)[0])
  return rng.choice(tables.PEOPLE), verb, f'the {kinds.noun_phrase(rng).split()[-1]}'
