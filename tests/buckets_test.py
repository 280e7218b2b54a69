"""Buckets: batches lose padding and nothing else, and all processes choose the same lengths."""

import numpy as np
import pytest
import tiny_data
import tiny_runs

from hyperjax import buckets, data, errors, stored

LENGTHS = {'hyper_inputs': 40, 'inputs': 12, 'targets': 6}
BUCKETS = (
  {'hyper_inputs': 30, 'inputs': 9, 'targets': 6},
  {'hyper_inputs': 20, 'inputs': 6, 'targets': 3},
)
FEATURES = {
  'hyper_input_tokens': 'hyper_inputs',
  'encoder_input_tokens': 'inputs',
  'decoder_input_tokens': 'targets',
  'decoder_target_tokens': 'targets',
  'decoder_loss_weights': 'targets',
}


def episode(hyper_inputs: int, inputs=(1,), targets=(1,)):
  tokens = lambda length: np.full(length, 7, np.int32)
  texts = {'inputs': tuple(map(tokens, inputs)), 'targets': tuple(map(tokens, targets))}
  return {'task_id': 0, 'hyper_inputs': tokens(hyper_inputs), 'cut': 0, **texts}


def test_all_episodes_of_a_batch_fit_the_smallest_bucket():
  every = buckets.completed(BUCKETS, LENGTHS)
  assert every == (BUCKETS[1], BUCKETS[0], LENGTHS)
  small, middle = episode(20, (6, 2), (3, 1)), episode(2, (2, 7))
  assert buckets.fitting([small], every) == BUCKETS[1]
  assert buckets.fitting([small, middle], every) == BUCKETS[0]
  assert buckets.fitting([small, episode(31), middle], every) == LENGTHS
  assert buckets.fitting([episode(41, (13,), (7,))], every) == LENGTHS  # is cut to that


def test_a_feature_that_a_bucket_does_not_name_has_its_full_length():
  every = buckets.completed([{'inputs': 5}], {'inputs': 12, 'targets': 6})
  assert every == ({'inputs': 5, 'targets': 6}, {'inputs': 12, 'targets': 6})
  assert buckets.completed(None, LENGTHS) == (LENGTHS,)


@pytest.mark.parametrize(
  'bucket', [{'inputs': 13}, {'inputs': 0}, {'contexts': 2}, {'inputs': True}]
)
def test_a_bucket_that_cannot_be_is_told(bucket):
  (feature,) = bucket
  with pytest.raises(errors.InputError, match=f'BUCKETS gives {feature} the length .* from 1 to'):
    data.Live('sni', lengths=LENGTHS, buckets=(bucket,))


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  folder = tmp_path_factory.mktemp('world')
  tiny_data.repository(folder / 'sni')
  return folder, tiny_data.vocabulary(folder)


@pytest.fixture
def live(world):
  def make(**options):
    folder, vocabulary = world
    sizes = {'lengths': LENGTHS, 'batch_size': 12, 'targets_per_context': 2}
    given = {'vocabulary': vocabulary, 'data_dir': folder} | sizes | options
    return data.Live('sni_def_2pos', **given)

  return make


WIDE = {'hyper_inputs': 300, 'inputs': 70, 'targets': 30}  # nothing is cut


def of_the_data(make, count=6):
  """A bucket that some of the first batches fit: with the shortest contexts of all."""
  batches = [next(make(lengths=WIDE).starting_at(n)) for n in range(count)]
  longest = lambda name: [int((batch[name] != 0).sum(axis=1).max()) for batch in batches]
  contexts = longest('hyper_input_tokens')
  assert len(set(contexts)) > 1
  whole = {FEATURES[name]: max(longest(name)) for name in list(FEATURES)[1:]}
  return whole | {'hyper_inputs': min(contexts)}


def same_but_for_padding(cut, whole):
  assert cut.keys() == whole.keys()
  for name, x in whole.items():
    width = cut[name].shape[1:]
    np.testing.assert_array_equal(cut[name], x[:, : width[0]] if width else x)
    if width and name != 'decoder_input_tokens':
      assert not x[:, width[0] :].any()


def test_batches_lose_padding_alone_and_resume_anywhere(live):
  bucket = of_the_data(live)
  options, found = {'lengths': WIDE, 'buckets': (bucket,)}, set()
  for n, cut in zip(range(6), live(**options).starting_at(0)):
    same_but_for_padding(cut, next(live(lengths=WIDE).starting_at(n)))
    again = next(live(**options).starting_at(n))
    for name, x in cut.items():
      np.testing.assert_array_equal(x, again[name])
    found.add(cut['hyper_input_tokens'].shape[1])
  assert found == {bucket['hyper_inputs'], WIDE['hyper_inputs']}


def test_the_parts_of_processes_have_the_lengths_of_the_whole(live):
  bucket = of_the_data(live)
  bucketed = lambda: live(lengths=WIDE, buckets=(bucket,))
  for step in range(4):
    whole = next(bucketed().starting_at(step))
    for count in (2, 3):
      parts = [next(bucketed().starting_at(step, index, count)) for index in range(count)]
      for name, x in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), x)


def test_a_process_counts_its_own_episodes(live):
  part = live(lengths=WIDE, buckets=(of_the_data(live),))
  batches = data.Batches(
    lambda seed, n: part.episode(n), WIDE, 12, 2, 0, 1, 3, part.buckets, part._used.counted
  )
  batches.at(4)
  assert sum(row['episodes'] for row in part.statistics().values()) == 2


def test_stored_episodes_have_the_buckets_of_live_ones(live, tmp_path):
  bucket = of_the_data(live)
  stored.write(live(lengths=WIDE), tmp_path / 'all', 24)  # buckets are no part of what is stored
  make = lambda: live(lengths=WIDE, buckets=(bucket,))
  both = make(), stored.Stored(str(tmp_path / 'all'), make())
  for a, b, _ in zip(*(each.starting_at(0) for each in both), range(4)):
    for name, x in a.items():
      np.testing.assert_array_equal(x, b[name])


def test_a_run_with_buckets_has_the_losses_of_one_without(tmp_path_factory, tmp_path):
  root = tmp_path_factory.getbasetemp()
  make = lambda **options: tiny_runs.live(root, **({'lengths': WIDE} | options))
  bucket = of_the_data(make)
  lengths = {
    next(make(buckets=(bucket,)).starting_at(n))['hyper_input_tokens'].shape[1] for n in range(6)
  }
  assert lengths == {bucket['hyper_inputs'], WIDE['hyper_inputs']}
  with tiny_runs.quick(root):
    hypermodel = tiny_runs.hypermodel(root, trunk=tiny_runs.config(root))  # without dropout
    for name, chosen in (('with', (bucket,)), ('without', None)):
      own = make(buckets=chosen)
      tiny_runs.train(root, tmp_path / name, data=own, hypermodel=hypermodel)
  losses = [tiny_runs.losses(tmp_path / name) for name in ('with', 'without')]
  assert len(losses[0]) == tiny_runs.STEPS
  np.testing.assert_allclose(*losses, rtol=1e-5)
