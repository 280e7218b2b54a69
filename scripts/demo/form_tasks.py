"""Classification tasks by form: numbers, letters, sentences, code."""

import random
from collections.abc import Callable, Sequence

import task_kinds as kinds
import task_tables as tables
import value_tasks
from task_kinds import Task, TextDraw


def tasks() -> list[Task]:
  """Training and held-out tasks."""
  return [*number_groups(), *form_groups(), *sentence_groups()]


# Numbers.


def between(least: int, most: int, step: int = 1, frame: str = '{}') -> TextDraw:
  """A draw of a number from `least` to `most`, in steps from `least`."""
  return lambda rng: frame.format(rng.randrange(least, most + 1, step))


def number_groups() -> list[Task]:
  """Large and small, even and odd, near and far."""
  even, odd = between(2, 998, 2), between(1, 999, 2)
  row = ' items in the table'
  groups = (
    ('Is the number even or odd?', {'even': even, 'odd': odd}),
    ('Is the number even? Answer "yes" or "no".', {'yes': even, 'no': odd}),
    ('Is the number odd? Answer "true" or "false".', {'true': odd, 'false': even}),
    ('Odd numbers are "left", even ones are "right".', {'left': odd, 'right': even}),
    (
      'Is the number above 50? Say "high" or "low".',
      {'high': between(51, 99), 'low': between(1, 49)},
    ),
    (
      'Answer "big" from 500 on and "small" below.',
      {'big': between(500, 999), 'small': between(1, 499)},
    ),
    ('Say "up" below 200 and "down" above.', {'up': between(1, 199), 'down': between(201, 400)}),
    (
      'How many digits does the number have? Answer "two", "three" or "four".',
      {'two': between(10, 99), 'three': between(100, 999), 'four': between(1000, 9999)},
    ),
    (
      'Is the number positive or negative?',
      {'positive': between(1, 99), 'negative': between(-99, -1)},
    ),
    (
      'Give the sign of the number: "plus" or "minus".',
      {'plus': between(1, 500), 'minus': between(-500, -1)},
    ),
    (
      'Is the number written in figures or in words?',
      {'figures': between(1, 999), 'words': lambda rng: value_tasks.spelled(rng.randint(1, 999))},
    ),
    (
      'Is it a whole number or a decimal one?',
      {
        'whole': between(1, 999),
        'decimal': lambda rng: f'{rng.randint(0, 99)}.{rng.randint(1, 9)}',
      },
    ),
    (
      'Is the left number greater or less than the right one?',
      {'greater': _two(lambda a, b: a > b), 'less': _two(lambda a, b: a < b)},
    ),
    (
      'Which number is larger, the first or the second?',
      {'first': _two(lambda a, b: a > b), 'second': _two(lambda a, b: a < b)},
    ),
    (
      'Are the two numbers the same? Answer "same" or "different".',
      {'same': _same, 'different': _two(lambda a, b: a != b)},
    ),
    (
      'Is it a multiple of ten? Answer "yes" or "no".',
      {
        'no': lambda rng: str(rng.randrange(10, 990, 10) + rng.randint(1, 9)),
        'yes': between(10, 990, 10),
      },
    ),
    (
      'Was the year in the last century? Say "old" or "new".',
      {'old': between(1900, 1999), 'new': between(2001, 2099)},
    ),
    ('Is the thing cheap or expensive?', {'cheap': _price(1, 9), 'expensive': _price(500, 990)}),
    (
      'Is the person a child or an adult? Answer "young" or "adult".',
      {'young': _age(2, 12), 'adult': _age(25, 80)},
    ),
    (
      'Is the place near or far?',
      {'near': _distance('meters', 5, 90), 'far': _distance('kilometers', 100, 900)},
    ),
    ('Is the water cool or warm?', {'cool': _degrees(1, 12), 'warm': _degrees(28, 45)}),
    (
      'Is it morning, afternoon or night?',
      {'morning': _clock(6, 11), 'afternoon': _clock(12, 17), 'night': _clock(22, 23)},
    ),
    ('Is the test slow or quick?', {'quick': _seconds(1, 9), 'slow': _seconds(100, 900)}),
    (
      'Which operation is it: sum, difference or product?',
      {'sum': _operation('+'), 'difference': _operation('-'), 'product': _operation('*')},
    ),
  )
  held_out = (
    (
      'Are these few or many? The border is 100.',
      {'few': between(2, 99, frame='{}' + row), 'many': between(101, 900, frame='{}' + row)},
    ),
    (
      'Even numbers are of the kind "node" and odd ones of the kind "edge".',
      {'node': between(2, 998, 2, 'number {}'), 'edge': between(1, 999, 2, 'number {}')},
    ),
  )
  return kinds.all_classes('number', 'Mathematics', groups, held_out)


def _two(fits: Callable[[int, int], bool]) -> TextDraw:
  def draw(rng: random.Random) -> str:
    while True:
      a, b = rng.randint(1, 99), rng.randint(1, 99)
      if fits(a, b):
        return f'{a}, {b}'

  return draw


def _same(rng: random.Random) -> str:
  a = rng.randint(1, 99)
  return f'{a}, {a}'


def _price(least: int, most: int) -> TextDraw:
  return lambda rng: (
    f'the {rng.choice(tables.THINGS[:20])} costs {rng.randint(least, most)} dollars'
  )


def _age(least: int, most: int) -> TextDraw:
  return lambda rng: f'{rng.choice(tables.PEOPLE)} is {rng.randint(least, most)} years old'


def _distance(unit: str, least: int, most: int) -> TextDraw:
  return lambda rng: f'the {rng.choice(tables.BUILDINGS)} is {rng.randint(least, most)} {unit} away'


def _degrees(least: int, most: int) -> TextDraw:
  frames = ('{} degrees', 'it is {} degrees', 'the bath is at {} degrees', 'about {} degrees')
  return lambda rng: rng.choice(frames).format(rng.randint(least, most))


def _clock(least: int, most: int) -> TextDraw:
  return lambda rng: f'{rng.randint(least, most)}:{rng.randint(0, 59):02d}'


def _seconds(least: int, most: int) -> TextDraw:
  frames = ('it took {} seconds', '{} seconds', 'finished after {} seconds', 'passed in {} seconds',
            'time: {} seconds', 'it ran for {} seconds')  # fmt: skip
  return lambda rng: rng.choice(frames).format(rng.randint(least, most))


def _operation(sign: str) -> TextDraw:
  return lambda rng: f'{rng.randint(1, 30)} {sign} {rng.randint(1, 30)}'


# The form of words.


def chosen(fits: Callable[[str], bool], frames: Sequence[str] = ('{}',)) -> TextDraw:
  """A draw of a common word for which `fits` holds."""
  return kinds.members([word for word in tables.PLAIN_WORDS if fits(word)], frames)


def form_groups() -> list[Task]:
  """Letters, endings, capitals and lengths."""
  phrase = kinds.phrase
  plurals, verbs = tables.PLURALS, tables.VERBS + tables.MORE_VERBS
  groups = (
    (
      'Does the word start with a vowel or a consonant?',
      {
        'vowel': chosen(lambda w: w[0] in 'aeiou', kinds.SAID),
        'consonant': chosen(lambda w: w[0] not in 'aeiou', kinds.SAID),
      },
    ),
    (
      'Is the word short or long?',
      {
        'short': chosen(lambda w: len(w) <= 4, kinds.SAID),
        'long': chosen(lambda w: len(w) >= 8, kinds.SAID),
      },
    ),
    (
      'Is the text in upper or in lower case? Answer "capital" or "little".',
      {'capital': lambda rng: phrase(rng).upper(), 'little': phrase},
    ),
    ('Is it one word or two?', {'one': kinds.line(1, 1), 'two': kinds.line(2, 2)}),
    (
      'Singular or plural?',
      {
        'singular': kinds.members([p[0] for p in plurals], kinds.SHORT[:2]),
        'plural': kinds.members([p[1] for p in plurals], kinds.SHORT[:2]),
      },
    ),
    (
      'Is there one of it or are there more? Answer "1" or "2".',
      {
        '1': kinds.members([p[0] for p in plurals], kinds.SEEN),
        '2': kinds.members([p[1] for p in plurals], kinds.SEEN),
      },
    ),
    (
      'Is the verb in the -ing form or in the base form? Answer "ing" or "base".',
      {
        'ing': kinds.members([v[3] for v in verbs], ('{}',)),
        'base': kinds.members([v[0] for v in verbs], ('{}',)),
      },
    ),
    (
      'Does the input hold a number? Answer "yes" or "no".',
      {'yes': lambda rng: f'{phrase(rng)} {rng.randint(2, 99)}', 'no': phrase},
    ),
    (
      'Are the two words the same? Answer "equal" or "other".',
      {'equal': _twice, 'other': kinds.line(2, 2)},
    ),
    (
      'Say "b" if the words are joined with an underscore and "a" if with a hyphen.',
      {'a': _joined('-'), 'b': _joined('_')},
    ),
    (
      'Is the text in brackets? Answer "in" or "out".',
      {'in': lambda rng: f'({phrase(rng)})', 'out': phrase},
    ),
    (
      'Which sign ends the line: a stop, a comma or a question mark?',
      {'stop': _ending('.'), 'comma': _ending(','), 'question': _ending('?')},
    ),
    (
      'Is the list short or long? Two items are "short".',
      {
        'long': lambda rng: ', '.join(kinds.some_words(rng, 4, 5)),
        'short': lambda rng: ', '.join(kinds.some_words(rng, 2)),
      },
    ),
    (
      'Does the list hold the word "table"? Answer "found" or "absent".',
      {'found': _list_with('table', True), 'absent': _list_with('table', False)},
    ),
    (
      'Does the list hold the word "apple"? Answer "no" or "yes".',
      {'no': _list_with('apple', False), 'yes': _list_with('apple', True)},
    ),
  )
  held_out = (
    (
      'Is this a valid or an invalid email address?',
      {'valid': _address('@'), 'invalid': _address('')},
    ),
  )
  return kinds.all_classes('form', 'Linguistic Probing', groups, held_out)


def _twice(rng: random.Random) -> str:
  word = kinds.plain_word(rng)
  return f'{word} {word}'


def _joined(sign: str) -> TextDraw:
  return lambda rng: sign.join(kinds.some_words(rng, 2))


def _ending(sign: str) -> TextDraw:
  return lambda rng: kinds.phrase(rng) + sign


def _list_with(word: str, is_there: bool) -> TextDraw:
  def draw(rng: random.Random) -> str:
    items = [item for item in kinds.some_words(rng, 4) if item != word][:3]
    if is_there:
      items[rng.randrange(3)] = word
    return ', '.join(items)

  return draw


def _address(sign: str) -> TextDraw:
  def draw(rng: random.Random) -> str:
    site = f'{kinds.plain_word(rng)}.{rng.choice(("com", "org", "net"))}'
    return f'{rng.choice(tables.PEOPLE)}{sign or rng.choice(("-at-", ".", "/"))}{site}'

  return draw


# Sentences and code. A block is a definition and a line `label: frame; frame` for each label.
# n: a name, o: an object, a: a state; v, past, now, done: forms of a verb; w, w2, big: words;
# k, k2: numbers

STATES = tables.words('happy tired hungry busy ready late alone angry')
SENTENCES = """
In which tense is the sentence: past, present or future?
  past: {n} {past} {o}; yesterday {n} {past} {o}; {n} was {a}
  present: {n} {now} {o}; every day {n} {now} {o}; {n} is {a}
  future: {n} will {v} {o}; soon {n} will {v} {o}; {n} will be {a}

Did it happen or does it happen? Answer "did" or "does".
  did: {n} {past} {o}; yesterday {n} {past} {o}; {n} was {a}
  does: {n} {now} {o}; every day {n} {now} {o}; {n} is {a}

Say "one" for the present tense and "two" for the future.
  one: {n} {now} {o}; every day {n} {now} {o}; {n} is {a}
  two: {n} will {v} {o}; soon {n} will {v} {o}; {n} will be {a}

Is the sentence a statement or an order? Answer "state" or "order".
  state: {n} {past} {o}; {n} is {a}; we {past} {o}
  order: {v} {o}; {v} {o} now; {v} {o} and wait

Does the sentence say that something is not so? Answer "yes" or "no".
  yes: {n} did not {v} {o}; {n} is not {a}; {n} will not {v} {o}
  no: {n} {past} {o}; {n} is {a}; we {past} {o}

Is something denied? Answer "denied" or "stated".
  denied: {n} did not {v} {o}; {n} is not {a}; {n} will not {v} {o}
  stated: {n} will {v} {o}; soon {n} will {v} {o}; {n} will be {a}

Is the speaker certain or unsure?
  certain: {n} surely {past} {o}; {n} certainly {past} {o}; {n} is definitely {a}
  unsure: maybe {n} {past} {o}; {n} may be {a}; perhaps {n} will {v} {o}

Is the style formal or informal?
  formal: dear sir, {n} kindly asks you to {v} {o}; we regret to say that {n} {past} {o}
  informal: hey, {n} wanna {v} {o}; yeah, {n} totally {past} {o}; wow dude, {n} is {a}

Is this a letter or a chat? Answer "letter" or "chat".
  chat: lol, {n} {past} {o}; hey, {n} is {a}; yo {n}, gonna {v} {o}
  letter: we inform you that {n} {past} {o}; dear sir, {n} is {a}; we regret that {n} {past} {o}

Is the sentence in the active or in the passive voice?
  active: {n} {past} {o}; {n} {now} {o}; {n} will {v} {o}
  passive: {o} was {done} by {n}; {o} is {done} by {n}; {o} will be {done} by {n}

Does the question ask for a person, a place or a time?
  person: who {past} {o}; who will {v} {o}; who can {v} {o}
  place: where did {n} {v} {o}; where does {n} {v} {o}; where will {n} {v} {o}
  time: when did {n} {v} {o}; when does {n} {v} {o}; when will {n} {v} {o}

Is a reason or a purpose given? Answer "reason" or "purpose".
  reason: {n} {past} {o} because it was there; {n} is {a} because of {o}
  purpose: {n} came to {v} {o}; {n} went out in order to {v} {o}

Who acts: "me" or "them"?
  me: i {past} {o}; i {v} {o}; i will {v} {o}
  them: they {past} {o}; they {v} {o}; they will {v} {o}

Does the sentence speak of a man or a woman?
  man: he {past} {o}; he {now} {o}; he is {a}; he will {v} {o}
  woman: she {past} {o}; she {now} {o}; she is {a}; she will {v} {o}

Is it a greeting or a farewell? Answer "hello" or "bye".
  hello: good morning {n}; hi {n}, {o} is here; welcome {n}; hello {n}, i have {o}
  bye: goodbye {n}; see you soon {n}, keep {o}; good night {n}; so long {n}, take {o}

Is this thanks or an excuse? Answer "thanks" or "sorry".
  thanks: thank you for {o}, {n}; many thanks for {o}; we are grateful for {o}
  sorry: sorry about {o}, {n}; excuse me for {o}; forgive me, {n}, for {o}

Does the speaker agree or disagree?
  agree: yes, {n} should {v} {o}; that is right, {n} is {a}; of course {n} {past} {o}
  disagree: no, {n} should not {v} {o}; that is wrong, {n} is not {a}; i doubt that {n} {past} {o}

Is it about all of them, some of them or none?
  all: everybody {past} {o}; all of us {past} {o}; each of them {past} {o}
  some: somebody {past} {o}; some of us {past} {o}; a part of them {past} {o}
  none: no one {past} {o}; none of us {past} {o}; not one of them {past} {o}

Does the message report an error or a success? Answer "error" or "success".
  error: could not {v} {o}; cannot find {o}; failed to {v} {o}; {o} is not there
  success: {o} was saved; all good with {o}; done: {o} is ready; {n} could {v} {o}

Answer "zero" if all went well and "one" if there was an error.
  zero: {o} is ready; successfully {past} {o}; {o} was {done} without problems
  one: could not use {o}; failure: {o} is broken; error in {o}; unable to {v} {o}

Does the person have it or need it? Say "have" or "need".
  have: {n} has {o}; {n} owns {o}; {o} belongs to {n}
  need: {n} needs {o}; {n} wants {o}; {n} asks for {o}

Is it getting more or less?
  more: the price of {o} rises; {n} adds {o}; the size of {o} grows
  less: the price of {o} falls; {n} removes {o}; the size of {o} shrinks

Is the season summer or winter?
  summer: it is hot and {n} {now} {o}; at the beach {n} {past} {o}; in july {n} {past} {o}
  winter: it snows and {n} {now} {o}; on the ice {n} {past} {o}; in january {n} {past} {o}
"""
SENTENCES_HELD_OUT = """
Is it a question or a statement? Answer "query" or "fact".
  query: did {n} {v} {o}; does {n} {v} {o}; is {n} {a}; will {n} {v} {o}
  fact: {n} {past} {o}; {n} is {a}; {n} will {v} {o}

Does it lie in the past or in the future? Say "before" or "after".
  before: last year {n} {past} {o}; {n} had {done} {o}; long ago {n} {past} {o}
  after: next year {n} will {v} {o}; {n} is going to {v} {o}; one day {n} will {v} {o}

A polite request is to "accept", a rude one to "reject".
  accept: please {v} {o}, {n}; would you kindly {v} {o}; {n}, could you please {v} {o}
  reject: {v} {o} or else; shut up and {v} {o}; {n}, you fool, {v} {o}
"""
CODE = """
Which Python type does the value have: int, str or list?
  int: {k}
  str: '{w}'; '{w} {w2}'
  list: [{w}, {w2}]; [{k}, {k2}]

Is it a float or a bool?
  float: {k}.5; 0.{k}; {k}.25
  bool: {k} < {k2}; {k} > {k2}; not {w}

Is the line a comment or code?
  comment: # {v} {o}; # {o} of {w}
  code: {w} = {k}; {w}({w2}); {w}.{w2} = {k}

Does the line define a function or a class?
  function: def {w}({w2}):; def {w}():
  class: class {big}:; class {big}({w2}):

Is it a call or an import?
  call: {w}({w2}); {w}.{w2}(); {w}({k})
  import: import {w}; from {w} import {w2}; import {w}.{w2}

What kind of file is it: image, audio, text or video?
  image: {w}.png; {w}.jpg; {w}.gif
  audio: {w}.mp3; {w}.wav; {w}.flac
  text: {w}.txt; {w}.md; {w}.rst
  video: {w}.mp4; {w}.avi; {w}.mov

Answer "a" for pictures, "b" for sounds and "c" for texts.
  a: {w}.png; {w}.jpg; {w}.gif
  b: {w}.mp3; {w}.wav; {w}.flac
  c: {w}.txt; {w}.md; {w}.rst

Is it a path or a web address? Answer "path" or "web".
  path: /{w}/{w2}; ../{w}/{w2}; ./{w}
  web: www.{w}.com; www.{w}.org/{w2}; http://{w}.net

Is the variable set or compared? Answer "set" or "test".
  set: {w} = {k}; {w} = {w2}
  test: {w} == {k}; {w} == {w2}

Is the option on or off? Answer "on" or "off".
  on: {w}=true; --{w}; enable {w}
  off: {w}=false; --no-{w}; disable {w}
"""


def blocks(text: str) -> list[tuple[str, dict[str, TextDraw]]]:
  """(definition, {label: draw of an input}) for each block."""
  made = []
  for block in text.strip().split('\n\n'):
    definition, *lines = block.splitlines()
    frames = dict(line.strip().split(': ', 1) for line in lines)
    made.append((definition, {label: filled(some.split('; ')) for label, some in frames.items()}))
  return made


def filled(frames: Sequence[str]) -> TextDraw:
  """A draw of one of the frames with its gaps filled."""

  def draw(rng: random.Random) -> str:
    base, past, done, _ = rng.choice(tables.VERBS)
    w, w2 = kinds.some_words(rng, 2)
    fields = {'n': rng.choice(tables.PEOPLE), 'o': kinds.the_thing(rng), 'a': rng.choice(STATES)}
    fields |= {'v': base, 'past': past, 'done': done, 'now': kinds.third(base)}
    fields |= {'w': w, 'w2': w2, 'big': w.title()}
    fields |= {'k': rng.randint(1, 99), 'k2': rng.randint(100, 999)}
    return rng.choice(frames).format(**fields)

  return draw


def sentence_groups() -> list[Task]:
  """Tense, person, mood and purpose of a sentence; kinds of files and of code."""
  return [
    *kinds.all_classes(
      'sentence', 'Text Categorization', blocks(SENTENCES), blocks(SENTENCES_HELD_OUT)
    ),
    *kinds.all_classes('code', 'Text Categorization', blocks(CODE), ()),
  ]
