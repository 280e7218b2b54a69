"""Tasks that rewrite a whole sentence."""

import random
from collections.abc import Sequence

import task_kinds as kinds
import task_tables as tables
from task_kinds import Task


def tasks() -> list[Task]:
  """Training and held-out tasks."""
  return [*rewritings(), *cases()]


# Rewriting whole sentences.

# category: name | definition | input | output
# n: a name, o: an object, v, past, done, doing, now: forms of a verb
REWRITINGS = {
  'Question Rewriting': tables.rows("""
    did_question | Ask whether this happened. | {n} {past} {o} | did {n} {v} {o}?
    will_question | Make a question of it. | {n} will {v} {o} | will {n} {v} {o}?
    must_question | Turn it into a question. | {n} must {v} {o} | must {n} {v} {o}?
    who_question | Ask who did it. | {n} {past} {o} | who {past} {o}?
    what_question | Ask for the thing. | {n} {past} {o} | what did {n} {v}?
  """),
  'Sentence Perturbation': tables.rows("""
    did_not | Negate the sentence. | {n} {past} {o} | {n} did not {v} {o}
    will_not | Say that it is not going to happen. | {n} will {v} {o} | {n} will not {v} {o}
    they | Replace the name by "they". | {n} {past} {o} | they {past} {o}
    it | Replace the thing by "it". | {n} {past} {o} | {n} {past} it
  """),
  'Paraphrasing': tables.rows("""
    passive | Put the sentence into the passive voice. | {n} {past} {o} | {o} was {done} by {n}
    active | Put the sentence into the active voice. | {o} was {done} by {n} | {n} {past} {o}
    cleft | Stress the name by starting with "it was". | {n} {past} {o} | it was {n} who {past} {o}
  """),
  'Style Transfer': tables.rows("""
    past_to_present | Use the present tense. | {n} {past} {o} | {n} {now} {o}
    present_to_past | Use the past tense. | {n} {now} {o} | {n} {past} {o}
    present_to_future | Use the future tense. | {n} {now} {o} | {n} will {v} {o}
    has_done | Use the present perfect. | {n} {past} {o} | {n} has {done} {o}
    is_doing | Say that it happens right now. | {n} {now} {o} | {n} is {doing} {o}
    polite_request | Make the order polite. | {v} {o} | could you {v} {o}, please?
    let_us | Turn the order into a proposal. | {v} {o} | let us {v} {o}
  """),
}
REWRITINGS_HELD_OUT = tables.rows("""
  can_question | Make a yes-no question of it. | {n} can {v} {o} | can {n} {v} {o}?
""")


def rewritings() -> list[Task]:
  """Sentences turned into questions, negations, other tenses and voices."""
  return [
    *(_sentences(category, *row) for category, rows in REWRITINGS.items() for row in rows),
    *(_sentences('Question Rewriting', *row, ('can',)) for row in REWRITINGS_HELD_OUT),
    kinds.mapped(
      'is_question',
      'Turn the statement into a question.',
      kinds.state,
      lambda text: 'is ' + text.replace(' is ', ' ') + '?',
      category='Question Rewriting',
    ),
    kinds.mapped(
      'is_not',
      'Say the opposite by adding "not".',
      kinds.state,
      lambda text: text.replace(' is ', ' is not '),
      category='Sentence Perturbation',
    ),
    _contraction('contract', 'Use the short form, as in speech.', forwards=True),
    _contraction('expand', 'Write the short form out in full.', forwards=False),
    kinds.rule(
      'merge_subjects', 'Sentence Composition', 'Merge the two sentences into one.', _merge
    ),
    kinds.rule('possessive', 'Paraphrasing', 'Say it with \'s instead of "of".', _possessive),
    kinds.rule('there_is', 'Paraphrasing', 'Start the sentence with "there is".', _there_is),
    kinds.rule(
      'turn_comparison',
      'Paraphrasing',
      'Say the same, starting from the other person.',
      _comparison,
    ),
  ]


def _sentences(
  category: str,
  name: str,
  definition: str,
  source: str,
  target: str,
  held_out: Sequence[str] | None = None,
) -> Task:
  def draw(rng: random.Random) -> tuple[str, str]:
    base, past, done, doing = rng.choice(tables.VERBS)
    thing = f'the {rng.choice(tables.THINGS)}'
    if rng.random() < 0.5:
      thing = f'the {rng.choice(tables.ADJECTIVES)} {thing[4:]}'
    fields = {'n': rng.choice(tables.PEOPLE), 'o': thing, 'v': base, 'past': past, 'done': done}
    fields |= {'doing': doing, 'now': kinds.third(base)}
    return source.format(**fields), target.format(**fields)

  return kinds.rule(name, category, definition, draw, held_out)


CONTRACTIONS = tables.rows("""
  i do not | i don't
  it is not | it isn't
  we are not | we aren't
  they did not | they didn't
  i cannot | i can't
  you should not | you shouldn't
  she was not | she wasn't
  he would not | he wouldn't
  he does not | he doesn't
  we have not | we haven't
""")
CONTRACTION_ENDINGS = {
  'be': ('ready', 'here', 'at home', 'sure', 'late', 'alone', 'in the list', 'on the table'),
  'do': ('know this', 'use it', 'see the file', 'try it', 'need this', 'help', 'read it', 'stop'),
  'have': ('seen it', 'found the key', 'read it', 'been there', 'used it', 'moved', 'started'),
}


def _contraction(name: str, definition: str, forwards: bool) -> Task:
  entries = []
  for full, short in CONTRACTIONS:
    verb = full.split()[1]
    kind = 'be' if verb in ('is', 'are', 'was') else 'have' if verb == 'have' else 'do'
    for ending in CONTRACTION_ENDINGS[kind]:
      pair = (f'{full} {ending}', f'{short} {ending}')
      entries.append(pair if forwards else pair[::-1])
  return kinds.table(name, 'Style Transfer', definition, entries)


CONDITIONS = tables.words('tired happy hungry late ready busy angry alone sick lucky')


def _merge(rng: random.Random) -> tuple[str, str]:
  a, b = rng.sample(tables.PEOPLE, 2)
  what = rng.choice(CONDITIONS)
  return f'{a} is {what}. {b} is {what}.', f'{a} and {b} are {what}.'


def _possessive(rng: random.Random) -> tuple[str, str]:
  name, thing = rng.choice(tables.PEOPLE), kinds.noun_phrase(rng).split()[-2:]
  noun = ' '.join(word for word in thing if word not in ('the', 'my', 'a', 'an'))
  return f'the {noun} of {name}', f"{name}'s {noun}"


def _there_is(rng: random.Random) -> tuple[str, str]:
  thing, place = rng.sample(tables.THINGS, 2)
  where = rng.choice(('in', 'on', 'under', 'behind', 'near'))
  thing = kinds.article(thing)
  return f'{thing} is {where} the {place}', f'there is {thing} {where} the {place}'


COMPARISONS = (
  ('taller', 'shorter'),
  ('older', 'younger'),
  ('faster', 'slower'),
  ('richer', 'poorer'),
  ('stronger', 'weaker'),
)


def _comparison(rng: random.Random) -> tuple[str, str]:
  a, b = rng.sample(tables.PEOPLE, 2)
  more, less = rng.choice(COMPARISONS)
  if rng.random() < 0.5:
    more, less = less, more
  return f'{a} is {more} than {b}', f'{b} is {less} than {a}'


def cases() -> list[Task]:
  """Capitals and punctuation."""
  source = kinds.phrase
  category = 'Punctuation Error Detection'

  def marked(rng: random.Random) -> tuple[str, str]:
    plain = source(rng)
    place = rng.randint(1, len(plain.split()))
    start, end = plain.split()[:place], plain.split()[place:]
    return ' '.join(start) + rng.choice(',;:') + ' ' * bool(end) + ' '.join(end), plain

  return [
    kinds.mapped('upper_case', 'Write everything in capital letters.', source, str.upper),
    kinds.mapped('title_case', 'Let each word start with a capital letter.', source, str.title),
    kinds.mapped(
      'capitalize', 'Start the text with a capital letter.', source, lambda t: t[0].upper() + t[1:]
    ),
    kinds.mapped(
      'lower_case',
      'Write the words in small letters.',
      lambda rng: source(rng).upper(),
      str.lower,
    ),
    kinds.mapped('full_stop', 'Put a full stop at the end.', source, lambda t: t + '.'),
    kinds.mapped('exclaim', 'Put an exclamation mark at the end.', source, lambda t: t + '!'),
    kinds.mapped('question_mark', 'End the line with a question mark.', source, lambda t: t + '?'),
    kinds.rule('remove_punctuation', category, 'Remove the punctuation mark.', marked),
    kinds.mapped(
      'camel_case', 'Write the words as one, each with a capital.', kinds.line(2, 3), _camel
    ),
  ]


def _camel(text: str) -> str:
  return ''.join(word.capitalize() for word in text.split())
