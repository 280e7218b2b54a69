"""Tasks about the letters and the forms of one word."""

from collections.abc import Callable, Sequence

import task_kinds as kinds
import task_tables as tables
from task_kinds import Task


def tasks() -> list[Task]:
  """Training and held-out tasks."""
  return [*letters(), *letter_affixes(), *morphology()]


# Letters of one word.


def letters() -> list[Task]:
  """What can be done with the letters of one word."""
  word = kinds.plain_word

  def task(
    name: str, definition: str, change: Callable[[str], str], held_out: Sequence[str] | None = None
  ) -> Task:
    return kinds.mapped(name, definition, word, change, held_out, 'Word Semantics')

  return [
    task('first_letter', 'Write the first letter of the word.', lambda w: w[0]),
    task('last_letter', 'Which letter does the word end with?', lambda w: w[-1]),
    task('second_letter', 'Output the second letter of the given word.', lambda w: w[1]),
    task('first_two_letters', 'Give the first two letters of the word.', lambda w: w[:2]),
    task('last_two_letters', 'Give the last two letters of the word.', lambda w: w[-2:]),
    task(
      'first_and_last_letter', 'Write the first and the last letter.', lambda w: f'{w[0]} {w[-1]}'
    ),
    task('spell_with_spaces', 'Spell the word, with spaces between the letters.', ' '.join),
    task('spell_with_hyphens', 'Spell the word, with hyphens between the letters.', '-'.join),
    task('reverse_letters', 'Write the word backwards.', lambda w: w[::-1]),
    task('remove_vowels', 'Remove the letters a, e, i, o and u from the word.', _consonants),
    task(
      'only_vowels',
      'Keep only the letters a, e, i, o and u of the word.',
      lambda w: ''.join(c for c in w if c in 'aeiou'),
    ),
    task('double_last_letter', 'Write the word with its last letter doubled.', lambda w: w + w[-1]),
    task('drop_first_letter', 'Write the word without its first letter.', lambda w: w[1:]),
    task('drop_last_letter', 'Cut off the last letter of the word.', lambda w: w[:-1]),
    task('count_letters', 'How many letters does the word have?', lambda w: str(len(w))),
    task(
      'first_three_letters', 'Shorten the word to its first three letters.', lambda w: w[:3], ()
    ),
    kinds.mapped(
      'initials',
      'Write the first letter of each word, with spaces.',
      kinds.line(3, 4),
      lambda text: ' '.join(w[0] for w in text.split()),
      category='Word Semantics',
    ),
  ]


def _consonants(word: str) -> str:
  return ''.join(c for c in word if c not in 'aeiou')


LETTER_PREFIXES = ('re', 'un', 'pre', 'non', 'sub', 'over', 'auto', 'my_')
LETTER_SUFFIXES = ('less', 'ful', 'ish', 'like', 's', '_id')
LETTER_WORDINGS = (
  'Put the letters "{a}" directly {place} the word.',
  'Glue "{a}" to the {side} of the word.',
  'Write the word with "{a}" {place} it, without a space.',
)


def letter_affixes() -> list[Task]:
  """Letters glued to a word, whether or not the result is in a dictionary."""
  made = []
  affixes_and_places = [(affix, 'before') for affix in LETTER_PREFIXES]
  affixes_and_places += [(affix, 'after') for affix in LETTER_SUFFIXES]
  for i, (affix, place) in enumerate(affixes_and_places):
    pattern = f'{affix}{{}}' if place == 'before' else f'{{}}{affix}'
    side = 'front' if place == 'before' else 'end'
    name = f'glue_{kinds.slug(affix)}_{place}'
    definition = kinds.pick(LETTER_WORDINGS, i, a=affix, place=place, side=side)
    source = kinds.plain_word
    made.append(kinds.mapped(name, definition, source, pattern.format, category='Word Semantics'))
  return made


def morphology() -> list[Task]:
  """Forms of English words, from tables."""
  verbs = tables.VERBS + tables.MORE_VERBS
  category = 'Word Semantics'
  return [
    kinds.table('plural', category, 'Give the plural of the noun.', tables.PLURALS),
    kinds.table(
      'singular',
      category,
      'The input is a plural noun. Write its singular.',
      [(b, a) for a, b in tables.PLURALS],
    ),
    kinds.table(
      'past_tense', category, 'Write the past tense of the verb.', [(v[0], v[1]) for v in verbs]
    ),
    kinds.table(
      'past_participle',
      category,
      'Complete "it has been ..." with the right form of the verb.',
      [(v[0], v[2]) for v in verbs],
    ),
    kinds.table(
      'ing_form', category, 'Give the -ing form of the verb.', [(v[0], v[3]) for v in verbs]
    ),
    kinds.table(
      'third_person',
      category,
      'Write the verb as it follows "he" or "she" in the present tense.',
      [(v[0], kinds.third(v[0])) for v in verbs],
    ),
    kinds.table(
      'to_infinitive',
      category,
      'You see the -ing form of a verb. Write "to" and the base form.',
      [(v[3], f'to {v[0]}') for v in verbs],
    ),
    kinds.table(
      'comparative',
      category,
      'Write the comparative of the adjective.',
      [(d[0], d[1]) for d in tables.DEGREES],
    ),
    kinds.table(
      'superlative',
      category,
      'Write "the" and the superlative of the adjective.',
      [(d[0], f'the {d[2]}') for d in tables.DEGREES],
    ),
    kinds.table('adverb', category, 'Make an adverb of the adjective.', tables.ADVERBS),
    kinds.mapped(
      'indefinite_article',
      'Put "a" or "an" in front of the noun, whichever is right.',
      kinds.plain_word,
      kinds.article,
      category='Grammar Error Correction',
    ),
  ]
