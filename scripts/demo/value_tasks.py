"""Tasks about numbers, dates and lists: small calculations, conversions, sorting, counting."""

import random
from collections.abc import Callable, Sequence

import task_kinds as kinds
import task_tables as tables
from task_kinds import Task, TextDraw


def tasks() -> list[Task]:
  """Training and held-out tasks."""
  return [*sums(), *comparisons(), *spelled_numbers(), *dates(), *times(), *lists()]


def number(least: int, most: int) -> TextDraw:
  """A draw of one whole number."""
  return lambda rng: str(rng.randint(least, most))


def numbers(count: int, most: int = 99) -> TextDraw:
  """A draw of different numbers, with commas."""
  return lambda rng: ', '.join(map(str, rng.sample(range(1, most + 1), count)))


def counted(
  name: str,
  definition: str,
  source: TextDraw,
  change: Callable[..., object],
  held_out: Sequence[str] | None = None,
  category: str = 'Mathematics',
) -> Task:
  """A task on the whole numbers of the input, which `change` takes as its arguments."""

  def answer(text: str) -> str:
    return str(change(*(int(part) for part in text.replace(',', ' ').split())))

  return kinds.mapped(name, definition, source, answer, held_out, category)


# Numbers.

ADDENDS = (1, 2, 5, 10, 100)
ADDENDS_HELD_OUT = (20,)
SUBTRAHENDS = (1, 2, 10)
ADD_WORDINGS = (
  'Add {a} to the number.',
  'What is the given number plus {a}?',
  'Increase the number by {a}.',
)
SUBTRACT_WORDINGS = ('Subtract {a} from the number.', 'What is the given number minus {a}?')


def sums() -> list[Task]:
  """Sums, differences and what else is done with one or two numbers."""
  made = []
  for i, addend in enumerate(ADDENDS + ADDENDS_HELD_OUT):
    definition = kinds.pick(ADD_WORDINGS, i, a=str(addend))
    held_out = () if addend in ADDENDS_HELD_OUT else None
    change = addend.__add__
    made.append(counted(f'add_{addend}', definition, number(1, 899), change, held_out))
  for i, amount in enumerate(SUBTRAHENDS):
    definition = kinds.pick(SUBTRACT_WORDINGS, i, a=str(amount))
    change = amount.__rsub__
    made.append(counted(f'subtract_{amount}', definition, number(11, 899), change))
  two = numbers(2, 30)
  return [
    *made,
    counted('sum_of_two', 'Add the two numbers.', two, lambda a, b: a + b),
    counted('distance', 'How far are the two numbers apart?', two, lambda a, b: abs(a - b)),
    counted('double', 'Double the number.', number(1, 300), lambda a: 2 * a),
    counted('ten_times', 'Multiply the number by ten.', number(1, 300), lambda a: 10 * a),
    counted('product', 'Multiply the two numbers.', numbers(2, 12), lambda a, b: a * b),
    counted('round_to_tens', 'Round down to a multiple of ten.', number(10, 999), _tens),
    counted('negate', 'Change the sign of the number.', number(-400, 400), lambda a: -a),
    counted('last_digit', 'What is the last digit?', number(10, 999), lambda a: a % 10),
    counted('first_digit', 'What is the first digit?', number(10, 999), lambda a: str(a)[0]),
    counted('digit_sum', 'Add up the digits of the number.', number(10, 99), _digit_sum),
    counted('reverse_digits', 'Write the digits backwards.', number(100, 999), _backwards),
    counted('digits', 'Write the digits with spaces between them.', number(100, 9999), _spaced),
    counted('count_digits', 'How many digits does the number have?', _any_length, _length),
  ]


def _tens(a: int) -> int:
  return a - a % 10


def _digit_sum(a: int) -> int:
  return sum(map(int, str(a)))


def _backwards(a: int) -> str:
  return str(a)[::-1]


def _spaced(a: int) -> str:
  return ' '.join(str(a))


def _length(a: int) -> int:
  return len(str(a))


def _any_length(rng: random.Random) -> str:
  digits = rng.randint(1, 5)
  return str(rng.randint(10 ** (digits - 1), 10**digits - 1))


def comparisons() -> list[Task]:
  """The larger or smaller one, and sorting."""
  return [
    counted('larger_of_two', 'Write the larger number.', numbers(2, 999), max),
    counted('smaller_of_two', 'Write the smaller number.', numbers(2, 999), min),
    counted('largest_of_three', 'Which of the three numbers is the largest?', numbers(3), max),
    counted('largest_of_four', 'Find the maximum of the list.', numbers(4), max),
    counted('smallest_of_four', 'Find the minimum of the list.', numbers(4), min),
    counted('middle_of_three', 'Which number lies between the others?', numbers(3), _middle),
    counted('sort_numbers', 'Sort the numbers, smallest first.', numbers(4), _ascending),
    counted('sort_down', 'Sort the numbers, largest first.', numbers(3), _descending),
    counted('smallest_of_three', 'Which is the smallest number here?', numbers(3), min, ()),
  ]


def _middle(*values: int) -> int:
  return sorted(values)[1]


def _ascending(*values: int) -> str:
  return ', '.join(map(str, sorted(values)))


def _descending(*values: int) -> str:
  return ', '.join(map(str, sorted(values, reverse=True)))


ONES = tables.words("""zero one two three four five six seven eight nine ten eleven twelve thirteen
  fourteen fifteen sixteen seventeen eighteen nineteen""")
TENS = tables.words('- - twenty thirty forty fifty sixty seventy eighty ninety')
ROMAN = ((100, 'C'), (90, 'XC'), (50, 'L'), (40, 'XL'), (10, 'X'), (9, 'IX'), (5, 'V'), (4, 'IV'))


def spelled(n: int) -> str:
  """English words for 0 to 999."""
  if n < 20:
    return ONES[n]
  if n < 100:
    return TENS[n // 10] + (f' {ONES[n % 10]}' if n % 10 else '')
  return f'{ONES[n // 100]} hundred' + (f' {spelled(n % 100)}' if n % 100 else '')


def roman(n: int) -> str:
  """Roman numerals for 1 to 399."""
  for value, letters in ROMAN:
    if n >= value:
      return letters + roman(n - value)
  return 'I' * n


def ordinal(n: int) -> str:
  """1st, 2nd, 3rd, 4th, …"""
  last = '' if n // 10 % 10 == 1 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, '')
  return f'{n}{last or "th"}'


def spelled_numbers() -> list[Task]:
  """Numbers in figures, in words and in Roman numerals."""
  category = 'Number Conversion'

  def from_words(rng: random.Random) -> tuple[str, str]:
    n = rng.randint(0, 999)
    return spelled(n), str(n)

  def from_roman(rng: random.Random) -> tuple[str, str]:
    n = rng.randint(1, 199)
    return roman(n), str(n)

  def things(rng: random.Random) -> tuple[str, str]:
    n = rng.randint(2, 99)
    one, many = rng.choice(tables.PLURALS)
    return f'{n} x {one}', f'{n} {many}'

  source = number(0, 999)
  return [
    counted('to_words', 'Write the number in words.', source, spelled, category=category),
    kinds.rule('from_words', category, 'Write the number in figures.', from_words),
    counted('ordinal', 'Write the ordinal number.', number(1, 400), ordinal, category=category),
    counted('to_roman', 'Write it in Roman numerals.', number(1, 199), roman, category=category),
    kinds.rule('from_roman', category, 'Which number do the Roman numerals stand for?', from_roman),
    kinds.rule('things', category, 'Write the number and the plural of the noun.', things),
    counted(
      'hundred_words',
      'How many hundreds are in it? Answer in words.',
      number(100, 999),
      lambda n: ONES[n // 100],
      category=category,
    ),
    counted(
      'and_successor',
      'Write the number, the word "then" and the next number.',
      source,
      lambda n: f'{n} then {n + 1}',
      category=category,
    ),
  ]


# Dates and times.

MONTHS = tables.words("""january february march april may june july august september october
  november december""")
DAYS = tables.words('monday tuesday wednesday thursday friday saturday sunday')
SEASONS = ('winter', 'spring', 'summer', 'autumn')
DATE = {
  'text': '{day} {month} {year}',
  'figures': '{year}-{number:02d}-{day:02d}',
  'american': '{month} {day}, {year}',
}
# name | definition | form of the input | output
DATES = tables.rows("""
  year_of_date | In which year is the date? | text | {year}
  month_of_date | Which month is it? | american | {month}
  day_of_date | Which day of the month is it? | text | {day}
  year_of_figures | The date is written as year-month-day. Give the year. | figures | {year}
  next_month | Which month comes after the month of this date? | text | {next}
  previous_month | Which month comes before the month of this date? | text | {previous}
  next_year | What is the year after this date's year? | american | {next_year}
  month_number | Give the number of the month, from 1 to 12. | text | {number}
  date_to_figures | Write the date as year-month-day, in figures. | text | {figures}
  figures_to_date | Write the day and the name of the month. | figures | {day} {month}
  month_and_year | Leave out the day. | text | {month} {year}
  american_date | Write the month first. | text | {month} {day}, {year}
  slashes | Write the date with slashes, day first. | figures | {day}/{number}/{year}
  day_and_month | Leave out the year. | american | {month} {day}
""")
DATES_HELD_OUT = tables.rows("""
  month_of_figures | Name the month of this year-month-day date. | figures | {month}
  year_first | Write the year in front of the day and the month. | text | {year} {day} {month}
""")


def dates() -> list[Task]:
  """What is asked about a date, or another way to write it."""
  made = []
  for name, definition, form, target in DATES + DATES_HELD_OUT:

    def draw(rng: random.Random, form: str = form, target: str = target) -> tuple[str, str]:
      i, year, day = rng.randint(1, 12), rng.randint(1950, 2029), rng.randint(1, 28)
      facts = {
        'number': i,
        'year': year,
        'day': day,
        'month': MONTHS[i - 1],
        'next': MONTHS[i % 12],
      }
      facts |= {'previous': MONTHS[i - 2], 'next_year': year + 1}
      facts['figures'] = DATE['figures'].format(**facts)
      return DATE[form].format(**facts), target.format(**facts)

    held_out = () if (name, definition, form, target) in DATES_HELD_OUT else None
    made.append(kinds.rule(name, 'Information Extraction', definition, draw, held_out))
  return made


# name | definition | days later
WEEKDAYS = tables.rows("""
  tomorrow | Which day of the week comes next? | 1
  yesterday | Which day of the week was the day before? | -1
  in_three_days | Which day of the week is it three days later? | 3
""")
WEEKDAYS_HELD_OUT = tables.rows("""
  in_two_days | Which day of the week is it two days later? | 2
""")
WEEKDAY_FRAMES = (
  'today is {}',
  'it is {}',
  'on {} morning',
  'last {}',
  'this {}',
  'we meet on {}',
  'the shop is closed on {}',
  'she left on a {}',
  '{} evening',
  '{} at noon',
  'the {} after the party',
  'every {}',
  'the first {} of the month',
  '{}, early in the day',
  'a long {}',
  'the report is due on {}',
  'the test runs on {}',
  'a {} in june',
  'until {}',
  'from {} on',
  'since {}',
  'not later than {}',
  '{} is a holiday',
  'the build of {}',
  'their {} lesson',
  'they write on {}',
  'the backup of {}',
  'by {} night',
  'he was born on a {}',
  'the train on {}',
  'the {} market',
)


def times() -> list[Task]:
  """Days of the week, the clock and the seasons."""
  made = []
  for name, definition, later in WEEKDAYS + WEEKDAYS_HELD_OUT:

    def draw(rng: random.Random, later: int = int(later)) -> tuple[str, str]:
      i = rng.randrange(7)
      return rng.choice(WEEKDAY_FRAMES).format(DAYS[i]), DAYS[(i + later) % 7]

    held_out = () if name == 'in_two_days' else None
    made.append(kinds.rule(name, 'Question Answering', definition, draw, held_out))

  def clock(rng: random.Random) -> tuple[str, str]:
    hour, minute = rng.randrange(24), rng.randrange(60)
    half = 'am' if hour < 12 else 'pm'
    return f'{hour}:{minute:02d}', f'{(hour - 1) % 12 + 1}:{minute:02d} {half}'

  def hours_later(rng: random.Random) -> tuple[str, str]:
    hour, minute = rng.randrange(23), rng.randrange(60)
    return f'{hour}:{minute:02d}', f'{hour + 1}:{minute:02d}'

  def hour(rng: random.Random) -> tuple[str, str]:
    hour, minute = rng.randrange(24), rng.randrange(60)
    return f'{hour}:{minute:02d}', f'{hour} hours and {minute} minutes'

  def season(rng: random.Random) -> tuple[str, str]:
    i = rng.randrange(12)
    return f'{rng.randint(1, 28)} {MONTHS[i]} {rng.randint(1950, 2029)}', SEASONS[(i + 1) // 3 % 4]

  category = 'Number Conversion'
  return [
    *made,
    kinds.rule('clock_12', category, 'Write the time with am or pm.', clock),
    kinds.rule('hour_later', category, 'What time is it one hour later?', hours_later),
    kinds.rule('clock_in_words', category, 'Spell out hours and minutes.', hour),
    kinds.rule('season', 'Question Answering', 'In which season of the north is the date?', season),
  ]


# Lists.


def items(least: int, most: int) -> TextDraw:
  """A draw of different words, with commas."""
  return lambda rng: ', '.join(kinds.some_words(rng, least, most))


def listed(
  name: str,
  definition: str,
  source: TextDraw,
  change: Callable[[list[str]], object],
  held_out: Sequence[str] | None = None,
) -> Task:
  """A task on the items of a list; a list that comes back is joined with commas."""

  def answer(text: str) -> str:
    result = change(text.split(', '))
    return ', '.join(result) if isinstance(result, list) else str(result)

  return kinds.mapped(name, definition, source, answer, held_out, kinds.EXECUTION)


def lists() -> list[Task]:
  """Sorting, counting, adding and removing items."""
  words = items(3, 4)
  return [
    listed('sort_words', 'Sort the words by the alphabet.', words, sorted),
    listed('reverse_list', 'Reverse the list.', words, lambda x: x[::-1]),
    listed('count_items', 'How many items are in the list?', items(1, 6), len),
    listed('count_in_words', 'Count the items; answer in words.', items(1, 6), _count),
    listed('unique', 'Remove the duplicates from the list.', _repeated, _unique),
    listed('first_in_alphabet', 'Which word comes first in the alphabet?', words, min),
    listed('last_in_alphabet', 'Which word comes last in the alphabet?', words, max),
    listed('longest_word', 'Which word is the longest?', _one_extreme(max), _by_length(max)),
    listed('shortest_word', 'Which word is the shortest?', _one_extreme(min), _by_length(min)),
    listed('append_done', 'Append "done" to the list.', words, lambda x: [*x, 'done']),
    listed('append_ten', 'Append 10 to the list.', words, lambda x: [*x, '10']),
    listed('insert_item', 'Put "item" in front of the list.', words, lambda x: ['item', *x]),
    listed('list_with_and', 'Join the items; write "and" before the last one.', words, _with_and),
    listed('repeated_item', 'Which item occurs twice?', _repeated, _repeated_item),
    listed('drop_numbers', 'Remove the numbers from the list.', _mixed, _without_numbers),
    listed('only_numbers', 'Keep only the numbers.', _mixed, _only_numbers),
    listed('python_list', 'Write the items as a list in square brackets.', words, _brackets),
    listed('number_items', 'Number the items.', items(2, 3), _numbered),
    listed('list_with_or', 'Join the items; write "or" before the last one.', words, _with_or),
    listed(
      'append_total', 'Append "total" to the list.', words, lambda x: [*x, 'total'], ('total',)
    ),
    listed('drop_middle', 'Keep only the ends of the list.', items(3, 5), _ends, ()),
  ]


def _count(x: list[str]) -> str:
  return ONES[len(x)]


def _unique(x: list[str]) -> list[str]:
  return list(dict.fromkeys(x))


def _repeated(rng: random.Random) -> str:
  x = kinds.some_words(rng, 2, 3)
  x.insert(rng.randint(0, len(x)), rng.choice(x))
  return ', '.join(x)


def _repeated_item(x: list[str]) -> str:
  return next(item for item in x if x.count(item) == 2)


def _one_extreme(extreme: Callable) -> TextDraw:
  def draw(rng: random.Random) -> str:
    while True:
      x = kinds.some_words(rng, 3, 4)
      lengths = [len(item) for item in x]
      if lengths.count(extreme(lengths)) == 1:
        return ', '.join(x)

  return draw


def _by_length(extreme: Callable) -> Callable[[list[str]], str]:
  return lambda x: extreme(x, key=len)


def _mixed(rng: random.Random) -> str:
  x = kinds.some_words(rng, 2, 3) + [str(rng.randint(1, 99))]
  rng.shuffle(x)
  return ', '.join(x)


def _without_numbers(x: list[str]) -> list[str]:
  return [item for item in x if not item.isdigit()]


def _only_numbers(x: list[str]) -> list[str]:
  return [item for item in x if item.isdigit()]


def _with_and(x: list[str]) -> str:
  return f'{", ".join(x[:-1])} and {x[-1]}'


def _with_or(x: list[str]) -> str:
  return f'{", ".join(x[:-1])} or {x[-1]}'


def _brackets(x: list[str]) -> str:
  return f'[{", ".join(x)}]'


def _numbered(x: list[str]) -> str:
  return ' '.join(f'{i}. {item}' for i, item in enumerate(x, 1))


def _ends(x: list[str]) -> list[str]:
  return [x[0], x[-1]]
