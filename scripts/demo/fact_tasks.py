"""Short questions about the world and about the meaning of words."""

import random
from collections.abc import Sequence

import fact_tables as facts
import task_kinds as kinds
import task_tables as tables
from task_kinds import Task

ANSWERING = 'Question Answering'


def tasks() -> list[Task]:
  """Training tasks; facts cannot be read from a context, so that few are held out."""
  return [*countries(), *things(), *meanings()]


def framed(entries: Sequence[tuple[str, str]], frames: Sequence[str]) -> list[tuple[str, str]]:
  """Every entry in every frame."""
  return [(frame.format(source), output) for frame in frames for source, output in entries]


def _column(i: int, j: int) -> list[tuple[str, str]]:
  """Columns i and j of the countries, where both are filled in."""
  return [(row[i], row[j]) for row in facts.COUNTRIES if '-' not in (row[i], row[j])]


def countries() -> list[Task]:
  """Capitals, continents, languages, peoples and money of countries."""
  continents = {name: [] for name in ('Africa', 'Asia', 'Europe', 'South America')}
  for country, continent in _column(0, 2):
    if continent in continents:
      continents[continent].append(country)

  def town_in(names: list[str]):
    frames = ('a town in {}', 'a trip to {}', 'the flag of {}')
    return lambda rng: rng.choice(frames).format(rng.choice(names))

  return [
    kinds.table('capital', ANSWERING, 'What is the capital of the country?', _column(0, 1)),
    kinds.table(
      'country_of_capital', ANSWERING, 'Name the country of this capital.', _column(1, 0)
    ),
    kinds.table(
      'language', ANSWERING, 'Which language is mainly spoken in the country?', _column(0, 3)
    ),
    kinds.table('people', ANSWERING, 'Give the adjective of the country.', _column(0, 4)),
    kinds.table(
      'country_of_people',
      ANSWERING,
      'The adjective belongs to a country. Which?',
      [(f'the {people} flag', country) for country, people in _column(0, 4)],
    ),
    kinds.classes(
      'continent',
      ANSWERING,
      'On which continent is the country: Africa, Asia, Europe or South America?',
      {name: town_in(names) for name, names in continents.items()},
    ),
    kinds.table(
      'currency',
      ANSWERING,
      'What is the money of the country called?',
      framed(facts.CURRENCIES, ('{}', 'the money of {}', 'to pay in {}')),
    ),
  ]


def things() -> list[Task]:
  """Elements, animals, colors, tools and amounts."""
  colors: dict[str, list[str]] = {}
  for thing, color in facts.THING_COLORS:
    colors.setdefault(color, []).append(thing)

  def one_of(names: list[str]):
    frames = ('{}', 'the color of {}', 'it looks like {}', 'what is the color of {}')
    return lambda rng: rng.choice(frames).format(rng.choice(names))

  def amount(rng: random.Random) -> tuple[str, str]:
    unit, size, smaller = rng.choice(facts.UNITS)
    n = rng.randint(2, 9)
    plural = {'century': 'centuries', 'foot': 'feet', 'dozen': 'dozen'}.get(unit, unit + 's')
    return f'{n} {plural} in {smaller}', f'{n * int(size)} {smaller}'

  animals = ('{}', 'a little {}', 'the {} and its young')
  return [
    kinds.table('symbol', ANSWERING, 'Write the chemical symbol of the element.', facts.ELEMENTS),
    kinds.table(
      'element',
      ANSWERING,
      'Which chemical element has this symbol?',
      [(symbol, element) for element, symbol in facts.ELEMENTS],
    ),
    kinds.table(
      'young', ANSWERING, 'What is the young animal called?', framed(facts.YOUNG, animals)
    ),
    kinds.table(
      'sound',
      ANSWERING,
      'Which sound does the animal make?',
      framed(facts.SOUNDS, ('{}', 'the {}', 'what the {} does', 'i hear the {}')),
    ),
    kinds.classes(
      'color_of_thing',
      ANSWERING,
      'Which color does the thing usually have?',
      {color: one_of(names) for color, names in colors.items()},
    ),
    kinds.table(
      'workplace',
      ANSWERING,
      'Where does the person work? Name the place.',
      framed(facts.WORKPLACES, ('{}', 'she is {}', '{} at work')),
    ),
    kinds.table(
      'use',
      ANSWERING,
      'What is the thing used for?',
      framed(facts.USES, ('{}', 'he bought {}', 'we have {}')),
    ),
    kinds.rule('amount', 'Number Conversion', 'Convert the amount to the smaller unit.', amount),
  ]


def meanings() -> list[Task]:
  """Opposites, synonyms, the other sex, and the odd one out."""

  def both(entries: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [*entries, *((b, a) for a, b in entries)]

  def denied(rng: random.Random) -> tuple[str, str]:
    a, b = rng.choice(both(tables.OPPOSITES[:22]))
    thing = rng.choice(tables.THINGS)
    return f'the {thing} is {a}', f'the {thing} is not {b}'

  family = framed(both(facts.GENDERS), ('{}', 'the {}', 'young {}'))
  return [
    kinds.table('opposite', 'Word Semantics', 'Write the opposite.', both(tables.OPPOSITES)),
    kinds.table('synonym', 'Word Semantics', 'Write another word for it.', both(tables.SYNONYMS)),
    kinds.table('other_sex', 'Word Semantics', 'Give the word for the other sex.', family),
    kinds.rule(
      'not_the_opposite', 'Paraphrasing', 'Say the same with "not" and the opposite.', denied
    ),
    *odd_ones(),
  ]


# (kind that is picked, its words, the others, is it held out)
ODD_ONES = (
  ('animal', tables.ANIMALS, tables.TOOLS, False),
  ('fruit', tables.FRUITS, tables.FURNITURE, False),
  ('job', tables.JOBS, tables.VEHICLES, False),
  ('color', tables.COLORS, tables.BODY, False),
  ('drink', tables.DRINKS, tables.BUILDINGS, False),
  ('verb', tables.MOTION, tables.CLOTHES, False),
  ('city', tables.CITIES, tables.FOODS, False),
  ('number', tables.words('two three four five six seven eight nine ten twelve twenty'),
   tables.KITCHENWARE, False),
  ('bird', tables.BIRDS, tables.ANIMALS, False),
  ('instrument', tables.INSTRUMENTS, tables.METALS, True),
)  # fmt: skip
ODD_WORDINGS = (
  'Pick the {a} from the list.',
  'One of the words is a {a}. Which one?',
  'Find the word that names a {a}.',
)


def odd_ones() -> list[Task]:
  """The one word of another kind."""
  made = []
  for i, (kind, wanted, others, held_out) in enumerate(ODD_ONES):

    def draw(
      rng: random.Random, wanted: Sequence[str] = wanted, others: Sequence[str] = others
    ) -> tuple[str, str]:
      answer = rng.choice(wanted)
      listed = [answer, *rng.sample(others, rng.randint(2, 3))]
      rng.shuffle(listed)
      return ', '.join(listed), answer

    definition = kinds.pick(ODD_WORDINGS, i, a=kind).replace('a animal', 'an animal')
    definition = definition.replace('a instrument', 'an instrument')
    is_held_out = () if held_out else None
    made.append(kinds.rule(f'pick_{kind}', kinds.EXECUTION, definition, draw, is_held_out))
  return made
