"""The verbs adapt, predict and evaluate: files in, files out, and one sentence for bad ones."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest
import saved_runs
import tiny_data

import hyperjax
from hyperjax import adapt, adapters, predict
from hyperjax.errors import InputError

SHOTS = [{'input': 'red apple', 'output': 'green'}, {'input': 'one two', 'output': 'three'}]
INPUTS = [{'input': 'a big cat', 'id': 7}, {'input': 'plum'}, {'input': 'bird', 'note': 'é'}]
EDGE = ('tensorflow', 'tensorflow_datasets', 'tensorflow_text', 'seqio', 'gin')


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.getbasetemp()


@pytest.fixture
def shots(tmp_path) -> pathlib.Path:
  return tiny_data.write_lines(tmp_path / 'shots.jsonl', SHOTS)


@pytest.fixture
def inputs(tmp_path) -> pathlib.Path:
  return tiny_data.write_lines(tmp_path / 'x.jsonl', INPUTS)


def flags_of(verb, monkeypatch, **given) -> None:
  """Gives a verb these flags, and the others their defaults."""
  names = 'model_dir step examples definition output adapter inputs max_length'.split()
  values = dict.fromkeys(names) | {'beam_size': 1, 'batch_size': 32}
  values |= {name: str(v) if isinstance(v, os.PathLike) else v for name, v in given.items()}
  for module in (adapt, verb):
    monkeypatch.setattr(module, 'FLAGS', types.SimpleNamespace(**values))


def python(*arguments: str, **variables) -> subprocess.CompletedProcess:
  here = pathlib.Path(__file__).parents[1]
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=here,
    env=os.environ | {'PYTHONPATH': str(here)} | variables,
    capture_output=True,
    text=True,
    timeout=500,
  )


def verb(name: str, *absent: str, **flags) -> subprocess.CompletedProcess:
  """`python -m hyperjax.NAME` where the packages `absent` cannot be imported."""
  code = (
    f'import runpy, sys\nfor name in {absent}: sys.modules[name] = None\n'
    f'sys.argv = {["hyperjax." + name, *(f"--{k}={v}" for k, v in flags.items())]}\n'
    f'runpy.run_module("hyperjax.{name}", run_name="__main__", alter_sys=True)'
  )
  return python('-c', code)


def test_adapt_and_predict_work_without_tensorflow_seqio_and_gin(root, shots, inputs, tmp_path):
  model_dir, adapter, output = saved_runs.hyper(root), tmp_path / 'adapter', tmp_path / 'y.jsonl'
  done = verb(
    'adapt', *EDGE, model_dir=model_dir, examples=shots, definition='the cat task', output=adapter
  )
  assert done.returncode == 0, done.stderr
  assert '2 examples' in done.stdout
  done = verb('predict', *EDGE, model_dir=model_dir, adapter=adapter, inputs=inputs, output=output)
  assert done.returncode == 0, done.stderr
  rows = [json.loads(line) for line in output.read_text().splitlines()]
  answers = [row.pop('prediction') for row in rows]
  assert rows == INPUTS
  model = hyperjax.load(model_dir)
  again = model.adapt([(shot['input'], shot['output']) for shot in SHOTS], 'the cat task')
  assert answers == model.predict([row['input'] for row in INPUTS], again)
  assert again.provenance == adapters.load_adapter(adapter).provenance


def reports(out: str, model_dir: str, begin: str, end: str) -> pathlib.Path:
  """Where a report is, without its suffix; choices that are not the default are in its name."""
  name = out.splitlines()[-1].removesuffix('.json')
  pattern = rf'{re.escape(model_dir)}/inference_eval/{begin}-[0-9a-f]{{6}}-{end}'
  assert re.fullmatch(pattern, name), name
  return pathlib.Path(name)


def test_evaluate_prints_a_table_and_writes_it_beside_the_run(root, tmp_path):
  tiny_data.repository(tmp_path / 'sni')
  model_dir = saved_runs.hyper(root)
  done = python(
    *('-m', 'hyperjax.evaluate', '--gin_file=gin/runs/evaluate.gin'),
    f"--gin.MODEL_DIR='{model_dir}'",
    "--gin.MIXTURE_OR_TASK_NAME='sni_def_2pos'",
    "--gin.EVAL_SPLIT='train'",
    "--gin.MIXTURE_ARGUMENTS={'instances': 4}",
    '--gin.STRATEGY=@decoding.Beam()',
    '--gin.decoding.Beam.width=2',
    HYPERJAX_DATA=str(tmp_path),
  )
  assert done.returncode == 0, done.stderr
  place = reports(done.stdout, model_dir, 'sni_def_2pos-train-own', f'seed0-{saved_runs.STEP}')
  report = json.loads(place.with_suffix('.json').read_text())
  names = list(tiny_data.TRAIN)
  assert list(report['tasks']) == names == list(report['scores']['rouge_l']['tasks'])
  assert [len(each['predictions']) for each in report['tasks'].values()] == [4, 4, 4]
  rows = list(csv.reader(place.with_suffix('.csv').open()))
  assert rows[0] == ['task', 'category', 'instances', 'rouge_l', 'exact_match']
  assert [row[0] for row in rows[1:]] == [
    *names,
    *(f'{category}: mean' for category in dict.fromkeys(row[1] for row in rows[1:4])),
    'all instances',
    '95 %, more instances',
    '95 %, more tasks',
  ]
  assert rows[1][1:3] == ['Text Case', '4'] and rows[-3][2] == '12'
  assert float(rows[-3][3]) == pytest.approx(report['scores']['rouge_l']['all'], abs=0.005)
  for row in rows:
    assert row[0] in done.stdout
  # 21 tokens hold none of these contexts whole; the report says what else was asked for
  assert report['contexts_cut'] == 3 and report['inputs_truncated'] == 0
  assert 'cut to the lengths of the run: 3 of 3 contexts, 0 of 12 inputs' in done.stdout
  assert report['tasks'][names[0]]['context_parts_cut'] > 0
  assert report['arguments'] == {'instances': 4} and report['limit'] is None
  assert report['strategy']['class'] == 'hyperjax.decoding.Beam' and report['seed'] == 0


def metaicl(folder: pathlib.Path) -> None:
  """A classification and a task of free answers, seen by two seeds."""
  for name, answers, options in (
    ('kind', ['plum', 'apple'], ['plum', 'apple']),
    ('free', tiny_data.WORDS, []),
  ):
    (folder / name).mkdir(parents=True)
    lines = [
      {'task': name, 'input': word, 'output': answers[i % len(answers)], 'options': options}
      for i, word in enumerate(tiny_data.WORDS[:12])
    ]
    tiny_data.write_lines(folder / name / f'{name}.train.jsonl', lines[:8])
    tiny_data.write_lines(folder / name / f'{name}.test.jsonl', lines[8:])


def test_several_seeds_are_one_table_of_means_and_worst(root, tmp_path):
  metaicl(tmp_path / 'metaicl')
  model_dir = saved_runs.hyper(root)
  done = python(
    *('-m', 'hyperjax.evaluate', '--gin_file=gin/runs/evaluate.gin'),
    f"--gin.MODEL_DIR='{model_dir}'",
    "--gin.MIXTURE_OR_TASK_NAME='metaicl'",
    "--gin.MIXTURE_ARGUMENTS={'shots': 9, 'answer': 'rank_mean'}",
    '--gin.RANDOM_SEED=(13, 5)',
    HYPERJAX_DATA=str(tmp_path),
  )
  assert done.returncode == 0, done.stderr
  place = reports(done.stdout, model_dir, 'metaicl-test-own', f'seeds13_5-{saved_runs.STEP}')
  each = [
    json.loads(pathlib.Path(f'{place}.json'.replace('seeds13_5', f'seed{seed}')).read_text())
    for seed in (13, 5)
  ]
  both = json.loads(place.with_suffix('.json').read_text())
  assert both['recipe']['answer'] == 'rank_mean' and both['average'] == 'tasks'
  assert {name: task['answers'] for name, task in both['tasks'].items()} == {
    'kind': 'rank_mean',
    'free': 'generate',
  }
  for metric, name in (('score', None), ('macro_f1', 'kind'), ('rouge_l', 'free')):
    one = [report['scores'][metric] for report in each]
    values = [own['all'] if name is None else own['tasks'][name] for own in one]
    told = both['scores'][metric] if name is None else both['scores'][metric]['tasks'][name]
    assert told['mean'] == pytest.approx(sum(values) / 2) and told['worst'] == min(values)
    assert told['seeds'] == dict(zip(['13', '5'], values))
  rows = list(csv.reader(place.with_suffix('.csv').open()))
  assert rows[0][3:6] == ['score', 'score (worst)', 'score (std)']
  means = ['free-form: mean', 'classification: mean']
  assert [row[0] for row in rows[1:]] == ['free', 'kind', *means, 'mean of 2 tasks']
  assert 'MetaICL: setting found, shots 9, answer rank_mean' in done.stdout
  assert '4 of 4 contexts show fewer examples than asked for' in done.stdout


def test_a_note_is_one_line(root, tmp_path):
  metaicl(tmp_path / 'metaicl')
  arguments = ('--gin_file=gin/runs/evaluate.gin', f"--gin.MODEL_DIR='{saved_runs.hyper(root)}'")
  mixture = "--gin.MIXTURE_OR_TASK_NAME='symbol_tuning'"
  rest = ("--gin.MIXTURE_ARGUMENTS={'held_out': (), 'shots': 3}", '--gin.RANDOM_SEED=3')
  done = python('-m', 'hyperjax.evaluate', *arguments, mixture, *rest, HYPERJAX_DATA=str(tmp_path))
  assert done.returncode == 0, done.stderr
  notes = [line for line in done.stderr.splitlines() if line.startswith('note: ')]
  assert notes == ['note: 1 tasks are left out, which are no classification: free']
  assert 'warn' not in done.stderr.lower()


def test_beams_and_lengths_are_flags(root, inputs, tmp_path, monkeypatch, capsys):
  model_dir, model = saved_runs.hyper(root), hyperjax.load(saved_runs.hyper(root))
  texts = [row['input'] for row in INPUTS]
  flags = {'model_dir': model_dir, 'inputs': inputs, 'output': tmp_path / 'y.jsonl'}
  flags_of(predict, monkeypatch, **flags, beam_size=3, max_length=2)
  predict.main()
  rows = [json.loads(line) for line in (tmp_path / 'y.jsonl').read_text().splitlines()]
  wanted = model.predict(texts, None, hyperjax.decoding.Beam(3), max_length=2)
  assert [row['prediction'] for row in rows] == wanted
  assert '3 predictions' in capsys.readouterr().out


def test_what_is_cut_is_told_on_stderr(root, tmp_path, monkeypatch, capsys):
  words = ' '.join(tiny_data.WORDS)
  shots = tiny_data.write_lines(tmp_path / 's.jsonl', [{'input': words, 'output': words}])
  model_dir = saved_runs.hyper(root)
  flags_of(adapt, monkeypatch, model_dir=model_dir, examples=shots, output=tmp_path / 'a')
  adapt.main()
  assert 'warning: 1 of the 1 parts' in capsys.readouterr().err
  inputs = tiny_data.write_lines(tmp_path / 'x.jsonl', [{'input': words}])
  flags_of(predict, monkeypatch, model_dir=model_dir, inputs=inputs, output=tmp_path / 'y.jsonl')
  predict.main()
  assert 'warning: 1 of 1 inputs' in capsys.readouterr().err


# -- Bad input -------------------------------------------------------------------------------------

BAD_LINES = [
  ('{"input": "a", "output": "b"}\n{"input": "a"\n', ' line 2: not JSON'),
  ('["a", "b"]\n', ' line 1: expected a JSON object'),
  ('{"output": "b"}\n', ' line 1: no field "input"'),
  ('{"input": 3, "output": "b"}\n', ' line 1: field "input" is a number'),
  ('\n{"input": " ", "output": "b"}\n', ' line 2: field "input" is empty'),
  ('', ' is empty'),
]


@pytest.mark.parametrize('content,words', BAD_LINES)
@pytest.mark.parametrize('module', [adapt, predict], ids=['adapt', 'predict'])
def test_a_bad_line_is_named_and_nothing_is_written(
  root, tmp_path, monkeypatch, module, content, words
):
  path, output = tmp_path / 'lines.jsonl', tmp_path / 'output'
  path.write_text(content)
  flags_of(module, monkeypatch, model_dir='absent', examples=path, inputs=path, output=output)
  with pytest.raises(InputError) as error:
    module.main()
  assert f'{path}{words}' in str(error.value) and '\n' not in str(error.value)
  assert not output.exists()


def test_flags_and_files_that_are_missing_are_named(root, shots, inputs, tmp_path, monkeypatch):
  def refused(module, words: str, **given):
    flags_of(module, monkeypatch, **given)
    with pytest.raises(InputError, match=words):
      module.main()

  output = tmp_path / 'out'
  refused(adapt, '--model_dir is missing', output=output)
  refused(adapt, '--output is missing', model_dir='runs/a')
  refused(adapt, 'nothing to adapt to', model_dir='runs/a', output=output)
  refused(adapt, 'nothing to adapt to', model_dir='runs/a', output=output, definition=' ')
  refused(adapt, 'nope.jsonl', model_dir='runs/a', output=output, examples=tmp_path / 'nope.jsonl')
  absent = {'model_dir': tmp_path / 'absent', 'output': output}
  refused(adapt, 'absent', examples=shots, **absent)
  refused(predict, 'absent', inputs=inputs, **absent)
  refused(predict, '--inputs', model_dir='runs/a', inputs=inputs, output=inputs)
  refused(predict, 'holds no predictions', model_dir='runs/a', inputs=inputs, output=shots)
  refused(predict, 'is a folder', model_dir='runs/a', inputs=inputs, output=tmp_path)
  # A taken place is told before the run is read.
  refused(adapt, 'thesis', examples=shots, **(absent | {'output': thesis(tmp_path)}))
  run = {'model_dir': saved_runs.hyper(root), 'output': output}
  refused(predict, 'adapter.json', inputs=inputs, adapter=tmp_path / 'absent', **run)
  refused(adapt, 'no checkpoint of step 3', examples=shots, step=3, **run)
  assert not output.exists()
  assert [json.loads(line) for line in inputs.read_text().splitlines()] == INPUTS
  assert [json.loads(line) for line in shots.read_text().splitlines()] == SHOTS


def thesis(folder: pathlib.Path) -> pathlib.Path:
  """A folder with something else in it."""
  (folder / 'thesis').mkdir()
  (folder / 'thesis' / 'chapter.txt').write_text('1')
  return folder / 'thesis'


def test_an_output_that_was_there_survives_what_goes_wrong(root, inputs, tmp_path, monkeypatch):
  output = tmp_path / 'y.jsonl'
  earlier = '{"input": "x", "prediction": "yesterday"}\n'
  output.write_text(earlier)
  run = {'model_dir': saved_runs.hyper(root), 'inputs': inputs, 'output': output}
  flags_of(predict, monkeypatch, **run, max_length=0)
  with pytest.raises(InputError, match='max_length is 0'):
    predict.main()
  assert output.read_text() == earlier
  flags_of(predict, monkeypatch, **run)
  predict.main()
  assert len(output.read_text().splitlines()) == len(INPUTS)


@pytest.mark.parametrize('name', ['adapt', 'predict', 'evaluate'])
def test_a_verb_ends_with_one_sentence_and_status_1(tmp_path, name):
  path = tmp_path / 'lines.jsonl'
  path.write_text('{"input"')
  flags = [f'--{flag}={path}' for flag in ('examples', 'inputs')]
  flags = [f'--examples={path}'] if name == 'adapt' else [f'--inputs={path}']
  flags += ['--model_dir=absent', f'--output={tmp_path}/out']
  if name == 'evaluate':
    flags = [
      '--gin_file=gin/runs/evaluate.gin',
      f"--gin.MODEL_DIR='{tmp_path}'",
      "--gin.MIXTURE_OR_TASK_NAME='sni'",
    ]
  done = python('-m', f'hyperjax.{name}', *flags)
  assert done.returncode == 1
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1, done.stderr
  assert str(tmp_path) in done.stderr
  assert not (tmp_path / 'out').exists()
