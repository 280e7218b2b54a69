"""Tasks that pick words from the input, rearrange them, or find a field or a fact in it."""

import random
from collections.abc import Callable, Sequence

import task_kinds as kinds
import task_tables as tables
from task_kinds import Task, TextDraw


def tasks() -> list[Task]:
  """Training and held-out tasks."""
  return [*positions(), *drops_and_repeats(), *extractions()]


# Picking and rearranging words.

# name, what is asked, places kept (of the list of words), is it held out
POSITIONS = (
  ('first', 'the first item', (0,), False),
  ('second', 'the second item', (1,), False),
  ('last', 'the last item', (-1,), False),
  ('fourth', 'the fourth item', (3,), False),
  ('first_two', 'the first two items', (0, 1), False),
  ('second_and_first', 'the second item and then the first', (1, 0), False),
  ('last_and_first', 'the last item and then the first', (-1, 0), False),
  ('last_two', 'the last two items', (-2, -1), False),
  ('first_and_third', 'the first and the third item', (0, 2), False),
  ('second_to_last', 'the last item but one', (-2,), False),
  ('third', 'the third item', (2,), True),
  ('second_and_last', 'the second and the last item', (1, -1), True),
)
POSITION_WORDINGS = (
  'You are given a list of {unit}. Output {what}.',
  'From the {unit}, write down {what}.',
  'The input consists of {unit}. Answer with {what} and nothing else.',
  'Return {what} of the given {unit}.',
)


def positions() -> list[Task]:
  """Items of a list with commas, and words of a line without them, by their places."""
  made = []
  for i, (name, what, places, held_out) in enumerate(POSITIONS):
    for j, (unit, separator) in enumerate((('items', ', '), ('words', ' '))):
      if held_out and unit == 'words':
        continue

      def draw(
        rng: random.Random, places: tuple[int, ...] = places, separator: str = separator
      ) -> tuple[str, str]:
        items = kinds.some_words(rng, 4, 5)
        return separator.join(items), separator.join(items[place] for place in places)

      wording = kinds.pick(
        POSITION_WORDINGS, i + j, unit=unit, what=what.replace('item', unit[:-1])
      )
      task = f'{name}_of_{unit}'
      made.append(kinds.rule(task, kinds.EXECUTION, wording, draw, () if held_out else None))
  return made


def drops_and_repeats() -> list[Task]:
  """Word orders and word copies."""
  three = kinds.line(3, 4)
  return [
    _words_task('drop_first_word', 'Leave out the first word.', three, lambda w: w[1:]),
    _words_task('drop_last_word', 'Write everything but the last word.', three, lambda w: w[:-1]),
    _words_task(
      'drop_second_word', 'Delete the second word of the line.', three, lambda w: w[:1] + w[2:]
    ),
    _words_task('repeat_twice', 'Write the input two times.', kinds.line(1, 3), lambda w: w + w),
    _words_task('repeat_thrice', 'Say the word three times.', kinds.line(1, 1), lambda w: w * 3),
    _words_task(
      'repeat_first_word', 'Copy the line, saying its first word twice.', three, lambda w: w[:1] + w
    ),
    _words_task('swap_two_words', 'Swap the two words.', kinds.line(2, 2), lambda w: w[::-1]),
    _words_task(
      'swap_first_and_last_word',
      'Exchange the first and the last word of the line; the middle stays.',
      kinds.line(3, 4),
      lambda w: [w[-1], *w[1:-1], w[0]],
    ),
    _words_task('reverse_words', 'Write the words in the reverse order.', three, lambda w: w[::-1]),
    _words_task(
      'first_word_to_the_end', 'Move the first word to the end.', three, lambda w: w[1:] + w[:1]
    ),
    _words_task(
      'and_so_on', 'Copy the words and add "and so on".', three, lambda w: [*w, 'and so on']
    ),
    _words_task(
      'repeat_last_word',
      'Copy the line and say its last word once more.',
      three,
      lambda w: w + w[-1:],
      (),
    ),
    _words_task(
      'last_word_to_the_front',
      'Move the last word of the line to the front.',
      three,
      lambda w: w[-1:] + w[:-1],
    ),
  ]


def _words_task(
  name: str,
  definition: str,
  source: TextDraw,
  change: Callable[[list[str]], list[str]],
  held_out: Sequence[str] | None = None,
) -> Task:
  return kinds.mapped(
    name, definition, source, lambda text: ' '.join(change(text.split())), held_out
  )


# Finding a piece of the input.

FIELDS = {
  'name': lambda rng: rng.choice(tables.PEOPLE),
  'age': lambda rng: str(rng.randint(2, 99)),
  'color': lambda rng: rng.choice(tables.COLORS[:10]),
  'type': lambda rng: rng.choice(tables.THINGS),
  'size': lambda rng: str(rng.randint(100, 999)),
  'owner': lambda rng: rng.choice(tables.MEN_NAMES + tables.WOMEN_NAMES),
  'job': lambda rng: rng.choice(tables.JOBS),
}
FIELD_WORDINGS = (
  'The input is a record. Output its {a}.',
  'Look up the field "{a}" and write its value.',
  'What is the {a} in this record?',
)
EXTRACTION = 'Information Extraction'

# name | definition | input | output; a, b, c: words, n: a number
EXTRACTIONS = tables.rows("""
  variable_name | Which variable is set? | {a} = {n} | {a}
  variable_value | Write the value that is assigned. | {a} = {n} | {n}
  function_name | What is the name of the function that is called? | {a}({b}, {c}) | {a}
  first_argument | Write the first argument of the call. | {a}({b}, {c}) | {b}
  attribute | Which attribute is read? | {a}.{b} | {b}
  dictionary_key | Which key is looked up? | {a}["{b}"] = {n} | {b}
  file_name | Give the file name at the end of the path. | {a}/{b}/{c}.txt | {c}.txt
  top_folder | Give the first folder of the path. | {a}/{b}/{c}.txt | {a}
  quoted_word | Which word stands in quotes? | the {a} of "{b}" is {c} | {b}
  word_in_brackets | Which word stands in brackets? | {a} ({b}) {c} | {b}
  word_after_colon | Write what follows the colon. | {a} {b}: {c} | {c}
  word_before_arrow | Write what comes before the arrow. | {a} -> {b} | {a}
  number_in_text | Which number does the text mention? | {a} {n} {b} {c} | {n}
""")
EXTRACTIONS_HELD_OUT = tables.rows("""
  second_argument | Write the second argument of the call. | {a}({b}, {c}) | {c}
""")


def extractions() -> list[Task]:
  """Fields of records, parts of code and of sentences."""
  made = []
  for i, field in enumerate(FIELDS):

    def draw(rng: random.Random, field: str = field) -> tuple[str, str]:
      others = rng.sample([other for other in FIELDS if other != field], rng.randint(2, 3))
      record = {
        other: FIELDS[other](rng) for other in rng.sample([field, *others], 1 + len(others))
      }
      return ', '.join(f'{key}: {value}' for key, value in record.items()), record[field]

    held_out = () if field == 'owner' else None
    definition = kinds.pick(FIELD_WORDINGS, i, a=field)
    made.append(kinds.rule(f'field_{field}', EXTRACTION, definition, draw, held_out))
  for name, definition, source, target in EXTRACTIONS + EXTRACTIONS_HELD_OUT:

    def draw_parts(
      rng: random.Random, source: str = source, target: str = target
    ) -> tuple[str, str]:
      a, b, c = kinds.some_words(rng, 3)
      fields = {'a': a, 'b': b, 'c': c, 'n': rng.randint(2, 999)}
      return source.format(**fields), target.format(**fields)

    held_out = () if (name, definition, source, target) in EXTRACTIONS_HELD_OUT else None
    made.append(kinds.rule(name, EXTRACTION, definition, draw_parts, held_out))
  return made + meetings()


MEETINGS = (
  ('who', 'Who met somebody?', 'who', None),
  ('whom', 'Who was met?', 'whom', None),
  ('place', 'Where did they meet?', 'place', None),
  ('weekday', 'On which day of the week did they meet?', 'day', ()),
)
DAYS = tables.words('monday tuesday wednesday thursday friday saturday sunday')
PLACES = ('the park', 'the station', 'paris', 'the library', 'the old town', 'london', 'the hotel')


def meetings() -> list[Task]:
  """Who met whom, where and when."""
  made = []
  for name, definition, key, held_out in MEETINGS:

    def draw(rng: random.Random, key: str = key) -> tuple[str, str]:
      who, whom = rng.sample(tables.PEOPLE, 2)
      facts = {'who': who, 'whom': whom, 'place': rng.choice(PLACES), 'day': rng.choice(DAYS)}
      pattern = rng.choice(
        ('on {day} {who} met {whom} in {place}', '{who} met {whom} in {place} on {day}')
      )
      return pattern.format(**facts), facts[key]

    made.append(kinds.rule(f'meeting_{name}', EXTRACTION, definition, draw, held_out))
  return made
