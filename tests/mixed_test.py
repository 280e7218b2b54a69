"""Mixed: every episode is one of a part's own, and parts come by their rates."""

import collections

import numpy as np
import pytest
import tiny_data

from hyperjax import data, errors
from hyperjax.sources import c4, mixed
from hyperjax.sources import natural_instructions as sni

LENGTHS = {'hyper_inputs': 25, 'inputs': 9, 'targets': 5}
CLM, SNI = c4.Clm(window=13, min_segment=3), sni.NaturalInstructions(instances=5)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  tiny_data.repository(folder / 'sni')
  tiny_data.text(folder / 'text')
  return folder, tiny_data.vocabulary(folder)


def episodes(mixture, world, **changes):
  return mixture.episodes(*world, LENGTHS, **changes)


def same(first, second) -> bool:
  flat = lambda episode: [
    np.asarray(x).tolist()
    for x in (episode['hyper_inputs'], *episode['inputs'], *episode['targets'])
  ]
  return flat(first) == flat(second)


def test_parts_come_by_their_rates_and_an_episode_is_its_part_s(world):
  both = episodes(mixed.Mixed(((CLM, 1), (SNI, 3.0))), world)
  parts = [episodes(part, world) for part in (CLM, SNI)]
  assert both.task_names == parts[0].task_names + parts[1].task_names
  first = len(parts[0].task_names)
  drawn = collections.Counter()
  for n in range(400):
    episode = both(3, n)
    index = int(episode['task_id'] >= first)
    drawn[index] += 1
    assert same(episode, parts[index](3, n)) and same(episode, both(3, n))
    assert episode['task_id'] == parts[index](3, n)['task_id'] + first * index
  assert abs(drawn[1] - 300) < 4 * np.sqrt(400 * 0.25 * 0.75)
  assert both.statistics.keys() == set(both.task_names)


def test_the_draw_does_not_lean_on_what_a_part_draws(world):
  # Were the part drawn with the part's own random numbers, its episodes would be a biased sample.
  whole = episodes(SNI, world)
  both = episodes(mixed.Mixed(((CLM, 1), (SNI, 1))), world)
  first = len(both.parts[0].task_names)
  chosen = [n for n in range(600) if both(0, n)['task_id'] >= first]
  share = lambda numbers: np.bincount([whole(0, n)['task_id'] for n in numbers], minlength=3)
  np.testing.assert_allclose(share(chosen) / len(chosen), share(range(600)) / 600, atol=0.08)


def test_a_wrong_context_keeps_the_question(world):
  both = episodes(mixed.Mixed(((SNI, 1), (SNI, 1))), world)
  for n in range(9):
    right, wrong = both(1, n), both.wrong_context(1, n)
    assert right['task_id'] == wrong['task_id']
    assert right['inputs'][0].tolist() == wrong['inputs'][0].tolist()
    assert right['hyper_inputs'].tolist() != wrong['hyper_inputs'].tolist()


def test_a_batch_mixes_parts_with_and_without_context(world):
  folder, vocabulary = world
  live = data.Live(
    mixed.Mixed(((CLM, 1), (SNI, 1))),
    lengths=LENGTHS,
    batch_size=12,
    vocabulary=vocabulary,
    data_dir=str(folder),
  )
  batch = next(live.starting_at(0))
  empty = (batch['hyper_input_tokens'] == 0).all(axis=1)
  assert batch['hyper_input_tokens'].shape == (12, 25) and 0 < empty.sum() < 12
  assert (batch['encoder_input_tokens'] != 0).any(axis=1).all()
  assert live.name == 'Mixed' and set(live.statistics()) == set(live.episodes.task_names)


@pytest.mark.parametrize(
  'parts', [(), ((SNI, 0),), ((SNI, 1), (CLM, -2)), (SNI, CLM), ((SNI, 'x'),)]
)
def test_parts_are_pairs_of_a_mixture_and_a_rate(parts):
  with pytest.raises(errors.InputError, match='Mixed.parts is'):
    mixed.Mixed(parts)


def test_a_task_that_two_parts_have_is_counted_in_both(world):
  few = sni.NaturalInstructions(instances=2)
  both = episodes(mixed.Mixed(((SNI, 1), (CLM, 1), (few, 1))), world)
  own = [episodes(part, world).statistics for part in (SNI, CLM, few)]
  again = {f'{name} (2)': counts for name, counts in own[2].items()}
  assert both.statistics == own[0] | own[1] | again
