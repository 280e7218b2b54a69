"""Episodes are functions of (seed, n); targets never stand in their own context; windows add up."""

import dataclasses

import numpy as np
import pytest
import tiny_data

from hyperjax import episodes, errors
from hyperjax.windows import Documents

LENGTHS = {'hyper_inputs': 40, 'inputs': 12, 'targets': 9}
TEXT_LENGTHS = {'hyper_inputs': 30, 'inputs': 5, 'targets': 7}
SEGMENTS = {'window': 23, 'b_length': 5, 'c_lengths': (4, 7), 'min_segment': 3}


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return tiny_data.vocabulary(tmp_path_factory.mktemp('vocabulary'))


def task(vocabulary, name, inputs, outputs=None, positives=()):
  outputs = outputs or [[f'{x} sees'] for x in inputs]
  return episodes.TaskExamples(
    name=name,
    definition=vocabulary.encode(f'the {name}'),
    positives=tuple(episodes.examples(vocabulary, [(x, ['white']) for x in positives])),
    examples=tuple(episodes.examples(vocabulary, list(zip(inputs, outputs)))),
  )


def few_shot(vocabulary, tasks, **options):
  return episodes.FewShotEpisodes(tuple(tasks), vocabulary, LENGTHS, **options)


@pytest.fixture(scope='module')
def tasks(vocabulary):
  return [
    task(vocabulary, 'cat', ['red', 'green', 'blue', 'black', 'old']),
    task(
      vocabulary, 'dog', ['one', 'two', 'three'], [['six', 'seven']] * 3, ['four', 'two', 'five']
    ),
  ]


def pairs(vocabulary, tokens):
  """The text of each part of a context."""
  parts = np.split(tokens, np.flatnonzero(tokens == vocabulary.x_id))[1:]
  return [
    tuple(
      vocabulary.decode(piece)
      for piece in np.split(part[1:], np.flatnonzero(part[1:] == vocabulary.y_id))
    )
    for part in parts
  ]


def said(vocabulary, tokens):
  return vocabulary.decode(tokens)


def same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    for x, y in (
      zip(np.atleast_1d(a[key]), np.atleast_1d(b[key]))
      if key in ('task_id', 'cut')
      else (zip(a[key], b[key], strict=True) if isinstance(a[key], tuple) else [(a[key], b[key])])
    ):
      np.testing.assert_array_equal(x, y)


# --- Contexts -------------------------------------------------------------------------------------


def test_a_context_reads_definition_then_examples(vocabulary):
  shots = episodes.examples(vocabulary, [('red cat', ['one']), ('dog', ['two', 'three'])])
  tokens, cut = episodes.context(vocabulary, vocabulary.encode('the big'), shots, 100)
  x, y = '<extra_id_10>', '<extra_id_9>'
  assert vocabulary.decode(tokens) == f'{x} the big {x} red cat {y} one {x} dog {y} two'
  assert tokens.dtype == np.int32 and cut == 0


def test_a_context_that_is_too_long_is_cut_in_its_last_example(vocabulary):
  shots = episodes.examples(vocabulary, [('red cat', ['one']), ('dog', ['two']), ('bird', ['six'])])
  whole, _ = episodes.context(vocabulary, None, shots, 100)
  ends = np.flatnonzero(whole == vocabulary.x_id)
  for length in range(len(whole) + 1):
    tokens, cut = episodes.context(vocabulary, None, shots, length)
    np.testing.assert_array_equal(tokens, whole[:length])
    assert cut == np.sum(np.append(ends[1:], len(whole)) > length)


def test_a_context_of_nothing_is_refused(vocabulary):
  with pytest.raises(errors.InputError, match='definition or at least one example'):
    episodes.context(vocabulary, None, (), 10)


def test_joining_cuts_the_context_and_keeps_the_query(vocabulary):
  shots = episodes.examples(vocabulary, [('red cat', ['one'])])
  definition, query = vocabulary.encode('the big'), vocabulary.encode('old dog reads')
  whole, cut = episodes.joined(vocabulary, definition, shots, query, 100)
  x, y = '<extra_id_10>', '<extra_id_9>'
  assert vocabulary.decode(whole) == f'{x} the big {x} red cat {y} one {x} old dog reads {y}'
  assert cut == 0
  tail = len(query) + 2
  for length in range(tail, len(whole)):
    tokens, cut = episodes.joined(vocabulary, definition, shots, query, length)
    np.testing.assert_array_equal(tokens, np.concatenate([whole[: length - tail], whole[-tail:]]))
    assert cut > 0
  short, _ = episodes.joined(vocabulary, definition, shots, query, tail - 1)
  np.testing.assert_array_equal(short, [vocabulary.x_id, *query[1:], vocabulary.y_id])


def test_packed_examples_are_the_examples(vocabulary):
  pairs = [
    ('red cat', ['one', '']),
    ('', ['two']),
    ('dog', []),
    ('the big bird', ['a', 'in', 'on']),
  ]
  for top in (0, 70_000):  # ids of 16 bits, and of more
    made = episodes.examples(vocabulary, pairs)
    made.append(episodes.Example(np.array([top, 5], np.int32), (np.array([top], np.int32),)))
    packed = episodes.Packed(made)
    assert len(packed) == 5
    for one, other in (
      *zip(packed, made, strict=True),
      (packed[-2], made[-2]),
      (packed[1:3][0], made[1]),
    ):
      assert [x.dtype for x in (one.input, *one.outputs)] == [np.int32] * (1 + len(other.outputs))
      np.testing.assert_array_equal(one.input, other.input)
      assert [y.tolist() for y in one.outputs] == [y.tolist() for y in other.outputs]
    with pytest.raises(IndexError):
      packed[5]
  assert list(episodes.Packed([])) == []


def test_an_example_counts_for_its_task_however_often_its_input_comes(vocabulary):
  often = task(vocabulary, 'cat', ['red'] * 5 + ['blue'], [[w] for w in tiny_data.WORDS[:6]])
  made = few_shot(vocabulary, [often, task(vocabulary, 'dog', ['one', 'two'])])
  drawn = np.mean([made(0, n)['task_id'] == 0 for n in range(800)])
  assert abs(drawn - 6 / 8) < 4 * np.sqrt(3 / 16 / 800)
  assert made.statistics['cat']['examples'] == 6


def test_episodes_are_the_same_of_packed_examples(vocabulary, tasks):
  packed = [dataclasses.replace(each, examples=episodes.Packed(each.examples)) for each in tasks]
  options = {'shots': 2, 'positives': 1}
  one, other = few_shot(vocabulary, tasks, **options), few_shot(vocabulary, packed, **options)
  assert one.statistics == other.statistics
  for n in range(30):
    same(one(4, n), other(4, n))


# --- Few-shot episodes ----------------------------------------------------------------------------


def test_an_episode_is_a_function_of_seed_and_number(vocabulary, tasks):
  options = {'shots': 2, 'positives': 1, 'targets_per_context': 2}
  first, again = few_shot(vocabulary, tasks, **options), few_shot(vocabulary, tasks, **options)
  forwards = [first(3, n) for n in range(20)]
  for n in reversed(range(20)):
    same(again(3, n), forwards[n])
  assert any(str(again(4, n)) != str(forwards[n]) for n in range(20))
  assert len({str(episode) for episode in forwards}) > 10


def test_golden_episode(vocabulary, tasks):
  made = few_shot(vocabulary, tasks[1:], shots=1, positives=1)
  episode = made(0, 0)
  (x,), (y,) = episode['inputs'], episode['targets']
  rest = {'one', 'two', 'three'} - {vocabulary.decode(x)}
  parts = pairs(vocabulary, episode['hyper_inputs'])
  assert parts[0] == ('the dog',)
  assert parts[1][0] == 'four' and parts[1][1].endswith('white')
  assert parts[2][0] in rest and len(parts) == 3
  assert y[-1] == vocabulary.eos_id and vocabulary.decode(y) in ('six', 'seven')


def test_no_input_appears_twice_in_an_episode(vocabulary):
  inputs = ['red', 'red', 'green', 'blue', 'red', 'green', 'four', 'black']  # with repetitions
  tasks = [task(vocabulary, 'cat', inputs, positives=['four', 'five', 'six'])]
  made = few_shot(vocabulary, tasks, shots=2, positives=2, targets_per_context=2, definition=False)
  for n in range(60):
    episode = made(1, n)
    shown = [x for x, _ in pairs(vocabulary, episode['hyper_inputs'])]
    asked = [vocabulary.decode(x) for x in episode['inputs']]
    assert shown[:2] == ['four', 'five']
    assert len({*shown, *asked}) == len(shown) + len(asked) == 6
  assert made.statistics['cat']['skipped'] == 1  # the instance that is a positive example


def test_every_example_and_every_reference_gets_its_turn(vocabulary, tasks):
  made = few_shot(vocabulary, tasks[1:], shots=1)
  seen = [made(0, n) for n in range(80)]
  text = vocabulary.decode
  assert {text(each['inputs'][0]) for each in seen} == {'one', 'two', 'three'}
  assert {text(each['targets'][0]) for each in seen if text(each['inputs'][0]) == 'one'} == {
    'six',
    'seven',
  }
  shots = [pairs(vocabulary, each['hyper_inputs'])[1] for each in seen]
  assert len(set(shots)) == 6  # three inputs, two references


def test_tasks_come_as_often_as_they_have_examples_or_as_told(vocabulary, tasks):
  for rates, share in ((None, 3 / 8), ((1.0, 3.0), 3 / 4), ((0.0, 2.0), 1.0)):
    made = few_shot(vocabulary, tasks, rates=rates)
    ids = [made(5, n)['task_id'] for n in range(1000)]
    assert abs(np.mean(ids) - share) < 4 * np.sqrt(share * (1 - share) / 1000) + 1e-9


def test_a_task_with_too_few_examples_shows_fewer_or_is_left_out_and_counted(vocabulary, tasks):
  made = few_shot(vocabulary, tasks, shots=4, definition=False)
  counts = {len(pairs(vocabulary, made(0, n)['hyper_inputs'])) for n in range(40)}
  assert counts == {4, 2}
  assert [made.statistics[name]['shots_missing'] for name in made.task_names] == [0, 2]
  large = few_shot(vocabulary, tasks, targets_per_context=4)
  assert {large(0, n)['task_id'] for n in range(40)} == {0}
  assert large.statistics['dog']['skipped'] == 3
  with pytest.raises(errors.InputError, match='none of 2 tasks has 6 different examples'):
    few_shot(vocabulary, tasks, targets_per_context=6)


def test_empty_examples_are_left_out_and_counted(vocabulary):
  inputs, outputs = ['red', '', 'green', 'blue'], [['one'], ['two'], [''], ['', 'three']]
  made = few_shot(vocabulary, [task(vocabulary, 'cat', inputs, outputs)], shots=1)
  for n in range(20):
    for tokens in made(0, n)['inputs']:
      assert vocabulary.decode(tokens) in ('red', 'blue')
    assert len(made(0, n)['targets'][0]) > 1
  assert made.statistics['cat'] | {'examples': 2, 'empty': 2} == made.statistics['cat']


def test_truncation_is_counted(vocabulary):
  long = ' '.join(['red'] * 30)
  made = few_shot(
    vocabulary, [task(vocabulary, 'cat', ['one', long, 'two'], [['six'], ['six'], [long]])]
  )
  counts = made.statistics['cat']
  assert (counts['inputs_truncated'], counts['targets_truncated']) == (1, 1)
  full = few_shot(
    vocabulary, [task(vocabulary, 'cat', [f'{long} {w}' for w in 'one two'.split()])], shots=1
  )
  episode = full(0, 0)
  assert len(episode['hyper_inputs']) == LENGTHS['hyper_inputs']
  assert episode['cut'] == 1


def test_targets_of_one_context_share_it(vocabulary, tasks):
  episode = few_shot(vocabulary, tasks[:1], shots=2, targets_per_context=3)(0, 4)
  assert len(episode['inputs']) == len(episode['targets']) == 3
  for x, y in zip(episode['inputs'], episode['targets']):
    assert vocabulary.decode(y) == f'{vocabulary.decode(x)} sees'


def test_joined_episodes_hold_context_and_query_in_the_input(vocabulary, tasks):
  lengths = {'inputs': 60, 'targets': 9}
  apart = episodes.FewShotEpisodes((tasks[0],), vocabulary, lengths | {'hyper_inputs': 99}, shots=2)
  together = dataclasses.replace(apart, join_context=True)
  for n in range(5):
    a, b = apart(0, n), together(0, n)
    assert len(b['hyper_inputs']) == 0
    expected = [*a['hyper_inputs'], vocabulary.x_id, *a['inputs'][0], vocabulary.y_id]
    np.testing.assert_array_equal(b['inputs'][0], expected)
    np.testing.assert_array_equal(a['targets'][0], b['targets'][0])


def test_a_wrong_context_changes_the_context_only(vocabulary, tasks):
  made = few_shot(vocabulary, tasks, shots=2)
  for n in range(20):
    right, wrong = made(2, n), made.wrong_context(2, n)
    other = made.task_names[1 - right['task_id']]
    assert pairs(vocabulary, wrong['hyper_inputs'])[0] == (f'the {other}',)
    same({k: right[k] for k in ('inputs', 'targets')}, {k: wrong[k] for k in ('inputs', 'targets')})
  with pytest.raises(errors.InputError, match='second task'):
    few_shot(vocabulary, tasks[:1]).wrong_context(0, 0)


def test_a_mixture_without_context_has_an_empty_one(vocabulary, tasks):
  episode = few_shot(vocabulary, tasks, definition=False)(0, 0)
  assert len(episode['hyper_inputs']) == 0 and episode['cut'] == 0


# --- Running text ---------------------------------------------------------------------------------


def numbered(*lengths, sources=None):
  """Documents whose tokens are all different: 100, 101, …"""
  sources = sources or ['a'] * len(lengths)
  names = tuple(dict.fromkeys(sources))
  return Documents(
    tokens=np.arange(100, 100 + sum(lengths), dtype=np.uint16),
    ends=np.cumsum(lengths),
    source=np.array([names.index(source) for source in sources], np.int32),
    sources=names,
  )


def caclm(vocabulary, documents, **options):
  return episodes.CaclmEpisodes(documents, vocabulary, TEXT_LENGTHS, **(SEGMENTS | options))


def unmarked(vocabulary, tokens):
  first = int(np.flatnonzero(tokens == vocabulary.sentinel(0))[0])
  assert tokens[first + 1] == vocabulary.sentinel(1)
  return tokens[:first], tokens[first + 2 :]


def test_caclm_segments_are_a_whole_window(vocabulary):
  made = caclm(vocabulary, numbered(23 * 4 + 2, 19))
  starts, c_lengths, a_lengths = set(), set(), set()
  for n in range(200):
    episode = made(1, n)
    a, d = unmarked(vocabulary, episode['hyper_inputs'])
    (b,), (c,) = episode['inputs'], episode['targets']
    window = np.concatenate([a, b, c, d])
    np.testing.assert_array_equal(window, np.arange(window[0], window[0] + len(window)))
    assert len(window) in (23, 19) and len(b) == 5 and min(len(a), len(d)) >= 3
    starts.add(int(window[0]))
    c_lengths.add(len(c))
    a_lengths.add(len(a))
  assert starts == {100, 123, 146, 169, 194}
  assert c_lengths == {4, 5, 6, 7}
  assert a_lengths == set(range(3, 12))


def test_several_caclm_targets_of_one_context_are_a_whole_window(vocabulary):
  made = caclm(vocabulary, numbered(40 * 3 + 24), window=40, targets_per_context=2)
  sizes = set()
  for n in range(100):
    episode = made(1, n)
    a, d = unmarked(vocabulary, episode['hyper_inputs'])
    (b1, b2), (c1, c2) = episode['inputs'], episode['targets']
    window = np.concatenate([a, b1, c1, b2, c2, d])
    np.testing.assert_array_equal(window, np.arange(window[0], window[0] + len(window)))
    assert len(b1) == len(b2) == 5 and 4 <= len(c1) == len(c2) <= 7
    assert min(len(a), len(d)) >= 3
    sizes.add(len(window))
  assert sizes == {40, 24}  # 24 = A, B1, C1, B2, C2, D at their shortest


def test_every_window_once_an_epoch_in_a_fresh_order(vocabulary):
  made = caclm(vocabulary, numbered(23 * 5, 23 * 2, sources=['b', 'a']))
  orders = [
    [int(made(3, 7 * epoch + n)['hyper_inputs'][0]) for n in range(7)] for epoch in range(3)
  ]
  assert all(sorted(order) == sorted(orders[0]) and len(set(order)) == 7 for order in orders)
  assert orders[0] != orders[1] != orders[2]


def test_all_tokens_are_accounted_for(vocabulary):
  made = caclm(vocabulary, numbered(23 + 14, 23 + 15, 9, 0, sources=['x', 'y', 'y', 'x']))
  assert made.statistics == {
    'x': {
      'documents': 2,
      'empty': 1,
      'skipped': 0,
      'windows': 1,
      'tokens': 37,
      'tokens_dropped': 14,
    },
    'y': {
      'documents': 2,
      'empty': 0,
      'skipped': 1,
      'windows': 2,
      'tokens': 47,
      'tokens_dropped': 9,
    },
  }
  assert made.task_names == ('x', 'y')


def test_a_wrong_context_comes_from_another_document_of_the_source(vocabulary):
  documents = numbered(46, 23, 46, 46, sources=['x', 'y', 'x', 'z'])
  made = caclm(vocabulary, documents)

  def document_of(token):
    return int(np.searchsorted(documents.ends, token - 100, side='right'))

  found = {}
  for n in range(200):
    right, wrong = made(0, n), made.wrong_context(0, n)
    for key in ('inputs', 'targets'):
      np.testing.assert_array_equal(right[key][0], wrong[key][0])
    a, d = unmarked(vocabulary, wrong['hyper_inputs'])
    assert document_of(a[0]) == document_of(d[-1])
    found.setdefault(document_of(right['inputs'][0][0]), set()).add(document_of(a[0]))
  assert found == {0: {2}, 2: {0}, 1: {0, 2, 3}, 3: {0, 1, 2}}
  with pytest.raises(errors.InputError, match='second document'):
    caclm(vocabulary, numbered(46)).wrong_context(0, 0)


def test_reconstruction_asks_for_what_stands_in_the_context():
  sizes = dict(window=23, b_length=3, c_lengths=(4, 7), targets_per_context=2)
  documents = numbered(23 * 3 + 8, 23)
  made = episodes.ReconstructionEpisodes(documents, TEXT_LENGTHS, **sizes)
  places, lengths = set(), set()
  for n in range(300):
    right, wrong = made(4, n), made.wrong_context(4, n)
    window = right['hyper_inputs']
    np.testing.assert_array_equal(window, np.arange(window[0], window[0] + len(window)))
    for b, c in zip(right['inputs'], right['targets'], strict=True):
      start = int(b[0] - window[0])
      np.testing.assert_array_equal(np.append(b, c), window[start : start + 3 + len(c)])
      lengths.add((len(window), len(b), len(c)))
      places.add((len(window), start))
    assert len(right['inputs']) == 2
    assert not np.isin(wrong['hyper_inputs'], window).any()
    for key in ('inputs', 'targets'):
      for ours, theirs in zip(right[key], wrong[key], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    again = made(4, n)
    assert [x.tolist() for x in again['targets']] == [x.tolist() for x in right['targets']]
  assert lengths == {(23, 3, c) for c in (4, 5, 6, 7)} | {(8, 3, 4), (8, 3, 5)}
  assert places == {(23, i) for i in range(17)} | {(8, 0), (8, 1)}
  for changes, says in (
    ({'window': 31}, 'length of hyper_inputs is 30, a window of 31 tokens needs 31'),
    ({'c_lengths': (4, 8)}, 'length of targets is 7, .* needs 8'),
    ({'b_length': 0}, 'at least one token'),
    ({'window': 6}, 'window of 6 tokens is too short'),
  ):
    with pytest.raises(errors.InputError, match=says):
      episodes.ReconstructionEpisodes(documents, TEXT_LENGTHS, **(sizes | changes))


def test_clm_is_a_prefix_and_its_continuation_within_their_lengths():
  lengths = {'inputs': 11, 'targets': 13}
  made = episodes.ClmEpisodes(numbered(20 * 3 + 7), lengths, window=20, min_segment=3)
  cuts = set()
  for n in range(100):
    (x,), (y,) = made(0, n)['inputs'], made(0, n)['targets']
    np.testing.assert_array_equal(np.append(x, y), np.arange(x[0], x[0] + len(x) + len(y)))
    assert 3 <= len(x) <= 11 and 3 <= len(y) <= 13 and len(x) + len(y) in (20, 7)
    cuts.add((len(x), len(x) + len(y)))
  assert {cut for cut, size in cuts if size == 20} == {7, 8, 9, 10, 11}
  assert {cut for cut, size in cuts if size == 7} == {3, 4}


def test_documents_are_those_given(vocabulary):
  texts = [('the red cat', 'novel'), ('', 'news'), ('dog sees bird', 'novel')] * 3
  documents = Documents.encoded(vocabulary, texts, at_once=2)
  assert documents.tokens.dtype == np.uint16
  assert documents.sources == ('novel', 'news')
  for (text, source), start, end, i in zip(
    texts, documents.starts, documents.ends, documents.source, strict=True
  ):
    assert vocabulary.decode(documents.tokens[start:end]) == text
    assert documents.sources[i] == source


def test_sizes_that_cannot_hold_are_refused(vocabulary):
  documents = numbered(46)
  with pytest.raises(errors.InputError, match='length of hyper_inputs is 30, a window of 60'):
    caclm(vocabulary, documents, window=60)
  with pytest.raises(errors.InputError, match=r'length of targets is 7, .* needs 8'):
    caclm(vocabulary, documents, c_lengths=(4, 8))
  with pytest.raises(errors.InputError, match='window of 14 tokens is too short'):
    caclm(vocabulary, documents, window=14)
  with pytest.raises(errors.InputError, match=r'no document has 15 tokens \(the longest has 9\)'):
    caclm(vocabulary, numbered(9, 8))
  with pytest.raises(errors.InputError, match='c_lengths'):
    caclm(vocabulary, documents, c_lengths=(7, 4))
  with pytest.raises(errors.InputError, match='does not fit inputs 5 and targets 6'):
    episodes.ClmEpisodes(documents, {'inputs': 5, 'targets': 6}, window=12, min_segment=2)
