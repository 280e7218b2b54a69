"""What the demo reads: docstrings of installed packages, found without importing them."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from hyperjax.errors import InputError
from scripts.demo import docstrings

PROSE = 'The value of it is a sum over the rows that are in this table, and that is not all. '


def prose(word: str, sentences: int = 6) -> str:
  return ' '.join(f'{word} {number}: {PROSE}' for number in range(sentences)).strip()


@pytest.fixture
def site(tmp_path, monkeypatch):
  """A directory in which packages can be installed for this test."""
  monkeypatch.syspath_prepend(tmp_path)
  return tmp_path


def install(site: pathlib.Path, name: str, files: dict[str, str], requires=()) -> None:
  info = site / f'{name}-1.0.dist-info'
  info.mkdir()
  needs = ''.join(f'Requires-Dist: {line}\n' for line in requires)
  (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}')
  (info / 'RECORD').write_text(''.join(f'{file},,\n' for file in files))
  for file, content in files.items():
    (site / file).parent.mkdir(parents=True, exist_ok=True)
    (site / file).write_text(content)


def python_file(*texts: str) -> str:
  functions = (f'def f{i}():\n  r"""{text}\n  """\n' for i, text in enumerate(texts))
  return 'raise SystemExit("imported")\n' + '\n'.join(functions)


def texts(roots=('aa',), limit=None) -> set[str]:
  return {document.text for document in docstrings.documents(limit, roots)}


def test_finds_docstrings_of_modules_classes_and_functions_at_any_depth(site):
  m, c, f, g = (prose(word) for word in ('module', 'class', 'method', 'inner'))
  code = f'''"""{m}"""
if True:
  class A:
    """{c}"""
    async def f(self):
      """{f}"""
      def g():
        """{g}"""
        return """{prose('no docstring')}"""
'''
  install(site, 'aa', {'aa/__init__.py': code})
  assert texts() == {m, c, f, g}
  sources = {(d.source, d.id.split(':')[0]) for d in docstrings.documents(roots=['aa'])}
  assert sources == {('aa', 'aa/__init__.py')}
  assert 'aa' not in sys.modules


def test_requirements_are_read_too_but_only_those_that_apply(site):
  for name in ('bb', 'cc', 'dd', 'ee'):
    install(site, name, {f'{name}.py': python_file(prose(name))})
  needs = ['bb>=1', 'cc; python_version < "3"', 'dd; extra == "more"', 'absent']
  install(site, 'aa', {'aa.py': python_file(prose('aa'))}, needs)
  assert texts(['aa']) == {prose('aa'), prose('bb')}
  assert texts(['aa', 'aa[more]']) == {prose('aa'), prose('bb'), prose('dd')}
  assert {d.source for d in docstrings.documents(roots=['aa'])} == {'aa', 'bb'}


def test_leaves_out_repeats_tests_short_foreign_and_broken(site):
  german = 'Dieser Wert gehört zur Summe aller Zeilen und wird niemals einzeln berechnet. ' * 8
  code = '>>> x = np.zeros((3, 4))\n  >>> np.sum(x, axis=0)\n  array([0., 0., 0., 0.])\n  ' * 9
  files = {
    'aa/one.py': python_file(prose('kept'), prose('short', 3), german, code),
    'aa/two.py': python_file(prose('kept').replace(' ', '\n')),
    'aa/tests/one.py': python_file(prose('test')),
    'aa/broken.py': 'def f(:\n  """' + prose('broken') + '"""',
  }
  install(site, 'aa', files)
  assert len(texts()) == 1
  assert ' '.join(texts().pop().split()) == ' '.join(prose('kept').split())


def test_same_order_each_time_and_a_limit_takes_its_head(site):
  install(site, 'aa', {f'aa/m{i}.py': python_file(prose(f'm{i}')) for i in range(7)})
  found = docstrings.documents(roots=['aa'])
  assert found == docstrings.documents(roots=['aa'])
  assert len(found) == 7
  assert [d.text for d in found] != sorted(d.text for d in found)  # some of every package
  size = len(found[0].text.encode())
  assert docstrings.documents(size, ['aa']) == found[:1]
  assert docstrings.documents(size + 1, ['aa']) == found[:2]


def test_nothing_installed_is_one_sentence():
  with pytest.raises(InputError, match=r'none of the packages no-such-package is installed'):
    docstrings.documents(roots=['no-such-package'])


def documents(n: int, text=prose) -> list[docstrings.Document]:
  return [docstrings.Document(text(f'word{i}'), 'aa', f'aa/m{i}.py:1') for i in range(n)]


def unlike(word: str) -> str:
  return ' '.join(f'{word}.{i}' for i in range(50))


def test_about_three_percent_of_the_files_are_held_out():
  training, held_out = docstrings.split(documents(4000, unlike))
  assert len(training) + len(held_out) == 4000
  assert 90 < len(held_out) < 150
  assert not {d.id for d in training} & {d.id for d in held_out}


def test_one_file_is_never_on_both_sides():
  lines = [docstrings.Document(unlike(f'w{i}'), 'aa', f'aa/m{i // 5}.py:{i}') for i in range(2000)]
  training, held_out = docstrings.split(lines)
  files = [{d.id.split(':')[0] for d in part} for part in (training, held_out)]
  assert held_out and not files[0] & files[1]


def test_held_out_text_that_training_repeats_is_dropped():
  assert docstrings.split(documents(500))[1] == []


def test_tidy():
  docstring = '\n    One.\n\n\n\n    Two. \n      three\ud800\n\n    '
  assert docstrings.tidy(docstring) == 'One.\n\nTwo.\n  three'


def test_written_files_are_c4_lines_and_their_manifest_is_true(tmp_path):
  command = [sys.executable, '-W', 'ignore', 'scripts/demo/docstrings.py']
  root = pathlib.Path(__file__).parent.parent
  environment = {**os.environ, 'PYTHONPATH': str(root), 'PYTHONHASHSEED': 'random'}
  outputs = [tmp_path / 'a', tmp_path / 'b']
  for output in outputs:
    run = [*command, f'--output={output}', '--limit=60000']
    subprocess.run(run, check=True, cwd=root, env=environment, capture_output=True)
  train = (outputs[0] / 'docstrings.train.jsonl').read_text().splitlines()
  for line in train:
    fields = json.loads(line)
    assert set(fields) == {'text', 'source', 'id'}
    assert len(fields['text']) >= docstrings.MIN_CHARACTERS
  manifest = json.loads((outputs[0] / 'docstrings.manifest.json').read_text())
  assert manifest['train']['documents'] == len(train)
  assert 40_000 < manifest['train']['bytes_of_text'] < 90_000
  assert 'numpy' in manifest['packages']
  for name in ('train.jsonl', 'validation.jsonl', 'manifest.json'):
    one, other = ((output / f'docstrings.{name}').read_bytes() for output in outputs)
    assert one == other
