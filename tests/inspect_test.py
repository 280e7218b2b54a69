"""What `python -m hyperjax.inspect` prints is what the assembler makes."""

import json
import pathlib
import re

import numpy as np
import pytest
import tiny_data
import tiny_runs
from verbs_test import python

from hyperjax import inspect


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.getbasetemp()


def table(lines: list[str], first: str) -> list[list[str]]:
  """The rows of the table whose head begins with a word, the head first."""
  start = next(i for i, line in enumerate(lines) if line.startswith(first))
  rows = []
  for line in lines[start:]:
    if not line:
      break
    rows.append(re.split(r'  +', line))
  return rows


def test_rates_counts_and_lengths_are_those_of_the_episodes(root):
  live = tiny_runs.live(root, seed=3)
  lines = inspect.told(live, examples=0, episodes=41, tasks=2)
  drawn = [live.episodes(3, n) for n in range(41)]
  ids = [episode['task_id'] for episode in drawn]
  head, *rows, every = (row for row in table(lines, 'task') if len(row) > 1)
  assert len(rows) == 2 and every[1] == '100.0'
  assert every[0] == f'all {len(live.episodes.task_names)} tasks'
  for name, rate, *counts in rows:
    share = ids.count(live.episodes.task_names.index(name)) / 41
    assert rate == f'{100 * share:.1f}'
    own = live.statistics()[name]
    assert counts == [str(own[key]) for key in head[2:]]
  assert float(rows[0][1]) >= float(rows[1][1])
  features = {row[0]: row[1:] for row in table(lines, 'feature')[1:]}
  sizes = [len(tokens) for episode in drawn for tokens in episode['inputs']]
  expected = [9, np.mean(sizes).round(1), np.median(sizes), max(sizes)]
  assert [float(cell) for cell in features['inputs'][:4]] == pytest.approx(expected, abs=0.5)
  cut = np.mean([episode['cut'] > 0 for episode in drawn])
  assert float(features['hyper_inputs'][4]) == pytest.approx(100 * cut, abs=0.05)
  assert not any(line.startswith('episode') for line in lines)


def test_episodes_are_told_as_text_with_their_markers(root):
  live = tiny_runs.live(root)
  lines = inspect.told(live, examples=2, episodes=1, tasks=0)
  for n in range(2):
    episode = live.episodes(0, n)
    start = next(i for i, line in enumerate(lines) if line.startswith(f'episode {n}: '))
    name = live.episodes.task_names[episode['task_id']]
    assert lines[start].startswith(f'episode {n}: {name}')
    context = lines[start + 1]
    size = len(episode['hyper_inputs'])
    assert context.startswith(f'  hyper_inputs [{size}] <x> the {name} task')
    assert context.count('<x>') == (episode['hyper_inputs'] == live.vocabulary.x_id).sum()
    assert context.count('<y>') == (episode['hyper_inputs'] == live.vocabulary.y_id).sum()
    for i, (x, y) in enumerate(zip(episode['inputs'], episode['targets'], strict=True)):
      said = lines[start + 2 + 2 * i : start + 4 + 2 * i]
      assert said[0] == f'  inputs [{len(x)}] {live.vocabulary.decode(x)}'
      assert said[1] == f'  targets [{len(y)}] {live.vocabulary.decode(y)} </s>'


def test_what_does_not_fit_is_told(root):
  short = tiny_runs.LENGTHS | {'hyper_inputs': 6, 'inputs': 2}
  lines = inspect.told(tiny_runs.live(root, lengths=short), examples=1, episodes=20, tasks=1)
  features = {row[0]: row[1:] for row in table(lines, 'feature')[1:]}
  assert float(features['hyper_inputs'][4]) == 100 and float(features['inputs'][4]) > 0
  assert any('parts of the context do not fit whole' in line for line in lines)


@pytest.mark.parametrize('gin', [False, True], ids=['flags', 'gin'])
def test_the_verb_prints_a_mixture_and_the_data_of_a_run(root, gin):
  folder, vocabulary = tiny_runs.world(root)
  lengths, count = tiny_runs.LENGTHS, ['--episodes=5', '--examples=1']
  if gin:
    values = {
      'MODEL_DIR': 'none',
      'MIXTURE_OR_TASK_NAME': 'sni_def_2pos',
      'DATA_DIR': str(folder),
      'VOCABULARY': vocabulary.path,
      'INITIAL_CHECKPOINT_PATH': 'none',
      'TASK_FEATURE_LENGTHS': lengths,
      'TRAIN_STEPS': 3,
    }
    files = ['gin/models/demo.gin', 'gin/runs/mtf.gin', 'gin/hypermodels/hypert5_prefix.gin']
    flags = [f'--gin_file={file}' for file in files]
    flags += [f'--gin.{name}={value!r}' for name, value in values.items()]
    flags.append('--gin.vocabulary.Vocabulary.extra_ids=11')
  else:
    flags = ['--mixture=sni_def_2pos', f'--data_dir={folder}', f'--vocabulary={vocabulary.path}']
    flags += ['--extra_ids=11', f'--lengths={json.dumps(lengths)}']
  done = python('-m', 'hyperjax.inspect', *flags, *count)
  assert done.returncode == 0, done.stderr
  assert 'sni_def_2pos, split train' in done.stdout and 'episode 0: ' in done.stdout


@pytest.mark.parametrize(
  'flags, said',
  [
    ([], '--mixture is missing'),
    (['--mixture=c4_clm', '--lengths=[3]'], r'--lengths=[3] is not an object'),
    (['--mixture=c4_clm', '--arguments={'], '--arguments={ is not JSON'),
    (['--mixture=c4_clm', '--gin_file=gin/runs/mtf.gin'], 'leave --mixture out'),
  ],
)
def test_bad_flags_are_one_sentence(flags, said):
  done = python('-m', 'hyperjax.inspect', *flags)
  assert done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_questions_that_are_trained_on_are_told_by_task(root, tmp_path):
  live = tiny_runs.live(root)
  known = [live.vocabulary.decode(each.input) for each in live.episodes.tasks[1].examples[:2]]
  for name, inputs in (('old', [*known, 'two seven']), ('new', ['seven two'])):
    (tmp_path / 'metaicl' / name).mkdir(parents=True)
    rows = [{'task': name, 'input': x, 'output': 'plum', 'options': []} for x in inputs]
    for split in ('train', 'test'):
      tiny_data.write_lines(tmp_path / 'metaicl' / name / f'{name}.{split}.jsonl', rows)
  (tmp_path / 'sni').symlink_to(tiny_runs.world(root)[0] / 'sni')
  flags = ('--arguments={"instances": 6}', '--against=metaicl', '--against_arguments={"shots": 0}')
  done = python(
    *('-m', 'hyperjax.inspect', '--mixture=sni_def', '--examples=0', '--episodes=1', *flags),
    f'--vocabulary={live.vocabulary.path}',
    f'--extra_ids={live.vocabulary.extra_ids}',
    HYPERJAX_DATA=str(tmp_path),
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert any(
    line.startswith('2 of 4 questions of metaicl are inputs that sni_def trains on (')
    for line in lines
  )
  name = live.episodes.task_names[1]
  assert table(lines[-2:], 'task')[1] == ['old', '3', '2', f'{name} (2)']
