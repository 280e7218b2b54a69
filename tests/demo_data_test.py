"""The demo's data folders: its own, and links to packs that it must never write into."""

import json
import pathlib
import shlex

import pytest
import tiny_data

from hyperjax.errors import InputError
from scripts.demo import data, docstrings, measure, picture, run


def made_up(folder: pathlib.Path) -> None:
  """In place of the docstrings of all that is installed."""
  folder.mkdir(parents=True, exist_ok=True)
  for split in ('train', 'validation'):
    (folder / f'docstrings.{split}.jsonl').write_text('{"text": "mine"}\n')


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(docstrings, 'write', made_up)


def pack_of(place: pathlib.Path, tasks: str, vocabulary: str) -> pathlib.Path:
  contents = {
    'text/a.train.jsonl': '{"text": "theirs"}\n',
    f'{tasks}/train_tasks.txt': 'one\n',
    vocabulary: 'their pieces',
  }
  for name, content in contents.items():
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(content)
  return place


def contents(place: pathlib.Path) -> dict[str, str]:
  return {str(path.relative_to(place)): path.read_text() for path in place.rglob('*.*')}


LAYOUTS = [
  ('sni/sni_style', 'vocab/t5_cc_all.32000.sentencepiece.model'),
  ('sni/splits/default', 'spiece.model'),
  ('natural-instructions/splits/default', 'vocabulary.model'),
]


@pytest.mark.parametrize('tasks, vocabulary', LAYOUTS)
def test_a_pack_is_linked_and_left_alone_by_a_later_demo_without_it(tmp_path, tasks, vocabulary):
  pack = pack_of(tmp_path / 'pack', tasks, vocabulary)
  before = contents(pack)
  linked = data.folder(tmp_path / 'out', str(pack))
  assert (linked / 'vocabulary.model').read_text() == 'their pieces'
  assert (linked / 'text/a.train.jsonl').is_file()
  assert list((linked / 'sni').rglob('train_tasks.txt'))
  own = data.folder(tmp_path / 'out', None)
  assert contents(pack) == before
  assert (own / 'text/docstrings.train.jsonl').read_text() == '{"text": "mine"}\n'


def test_its_own_data_are_still_its_own_after_a_demo_with_a_pack(tmp_path):
  own = data.folder(tmp_path / 'out', None)
  before = (own / 'vocabulary.model').read_bytes()
  data.folder(tmp_path / 'out', str(pack_of(tmp_path / 'pack', *LAYOUTS[0])))
  own = data.folder(tmp_path / 'out', None)
  assert (own / 'vocabulary.model').read_bytes() == before
  assert json.loads((own / 'manifest.json').read_text())['vocabulary.model']['bytes'] == len(before)


@pytest.mark.parametrize('absent', ['text', 'sni', 'vocab', ''])
def test_a_pack_that_lacks_a_part_is_named(tmp_path, absent):
  pack = pack_of(tmp_path / 'pack', *LAYOUTS[0])
  (pack / absent).rename(tmp_path / 'elsewhere')
  with pytest.raises(InputError, match=f'{pack}'):
    data.folder(tmp_path / 'out', str(pack))


def test_commands_are_told_as_a_shell_takes_them():
  command = ['/somewhere/python', '-m', 'hyperjax.train', '--gin.MODEL_DIR="a b"']
  told = run.told(command)
  assert shlex.split(told) == ['python', *command[1:]]


def test_differences_are_told_with_the_interval_over_tasks():
  report = {
    'caclm_loss': {},
    'caclm_gain': 0.1,
    'held_out_tasks': 2,
    'held_out_instances': 9,
    'contexts_cut': 1,
    'inputs_cut': 7,
    'held_out_rouge_l': {'hypert5_prefix': 5.0, 'wrong_context': 3.0, 'shared_prefix': 4.0},
    'intervals': {
      **{row: [0.0, 1.0] for row in ('caclm_gain', 'hypert5_prefix', 'wrong_context')},
      'shared_prefix': [0.0, 1.0],
      'hypert5_prefix minus wrong_context': [1.5, 2.5],
      'hypert5_prefix minus wrong_context, by task': [-4.25, 6.75],
      'hypert5_prefix minus shared_prefix': [0.5, 1.5],
      'hypert5_prefix minus shared_prefix, by task': [-3.25, 5.75],
    },
  }
  table = measure.table(report)
  assert '1 of 2 contexts and 7 of 9 inputs' in table
  assert '[-4.25, 6.75]' in table and '[-3.25, 5.75]' in table


def test_the_model_of_a_pack_has_a_row_for_every_id_of_its_vocabulary(tmp_path):
  own = data.SHIPPED_VOCABULARY  # 4,000 pieces
  pack = pack_of(tmp_path / 'pack', *LAYOUTS[1])
  (pack / 'spiece.model').write_bytes(own.read_bytes())
  folder = data.folder(tmp_path / 'out', str(pack))
  assert '--gin.t5.preset.vocab_size=4128' in run.scratch_plan(folder).bindings


@pytest.mark.parametrize('shipped', [True, False])
def test_the_picture_has_no_empty_panel(tmp_path, monkeypatch, shipped):
  rows = ''.join(json.dumps({'step': step, 'loss': 9 - step}) + '\n' for step in range(1, 4))
  places = [f'out/{stage}/train/metrics.jsonl' for stage in picture.STAGES]
  for name in places + [f'joint/{leg}.jsonl' for leg in picture.LEGS]:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(rows)
  figures = []
  monkeypatch.setattr(picture.pyplot, 'close', figures.append)
  picture.draw(tmp_path / 'out', tmp_path if shipped else None)
  assert [bool(axes.lines) for axes in figures[0].axes] == ([True, True] if shipped else [True])
  assert (tmp_path / 'out' / 'curves.png').stat().st_size


def test_tasks_and_vocabulary_of_an_older_checkout_are_replaced(tmp_path, monkeypatch):
  tasks, shipped = tmp_path / 'tasks', tmp_path / 'shipped.model'
  (tasks / 'tasks').mkdir(parents=True)
  monkeypatch.setattr(data, 'TASKS', tasks)
  monkeypatch.setattr(data, 'SHIPPED_VOCABULARY', shipped)
  made = tmp_path / 'data'

  def prepared(task: str, pieces: str) -> tuple[dict[str, str], str]:
    for path in (tasks / 'tasks').iterdir():
      path.unlink()
    (tasks / 'tasks' / f'{task}.json').write_text(task)
    shipped.write_text(pieces)
    data.prepare(made)
    return contents(made / 'sni'), (made / 'vocabulary.model').read_text()

  assert prepared('one', 'a b') == ({'tasks/one.json': 'one'}, 'a b')
  mine = made / 'text' / 'docstrings.train.jsonl'
  mine.write_text('kept')
  assert prepared('one', 'a c') == ({'tasks/one.json': 'one'}, 'a c')
  assert prepared('two', 'a c') == ({'tasks/two.json': 'two'}, 'a c')
  assert mine.read_text() == 'kept'
  stamp = (made / 'vocabulary.model').stat().st_mtime_ns
  prepared('two', 'a c')
  assert (made / 'vocabulary.model').stat().st_mtime_ns == stamp


def test_the_example_is_the_task_that_its_context_helps_most(tmp_path):
  tiny_data.repository(tmp_path / 'sni')
  path = tmp_path / 'sni' / 'splits' / 'default' / 'test_tasks.txt'
  path.write_text('reverse\nupper\n')
  scores = {'reverse': (40.0, 10.0), 'upper': (60.0, 50.0)}
  names = ('hypert5_prefix', 'wrong_context')
  report = {'tasks': {name: dict(zip(names, own)) for name, own in scores.items()}}
  made = measure.example_task(tmp_path, tmp_path, report)
  card = tiny_data.card('reverse')
  assert made['name'] == 'reverse' and made['definition'] == card['Definition'][0]
  pairs = [(each['input'], each['output'][0]) for each in card['Instances']]
  shown = [(each['input'], each['output']) for each in card['Positive Examples'][:2]]
  assert made['shots'] == shown + pairs[-6:] and made['queries'] == pairs[:5]
