"""What is installed and what is imported: the wheel, the pins, and a core without TensorFlow."""

import ast
import functools
import importlib.metadata
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import pytest
import setuptools
from packaging import requirements, utils

ROOT = pathlib.Path(__file__).parent.parent
AT_THE_EDGE = (
  *('absl', 'gin', 'pyarrow', 'seqio', 'tensorflow', 'tensorflow_datasets', 'tensorflow_text'),
  'torch',
)


def module_name(file: pathlib.Path) -> str:
  return '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def is_verb(file: pathlib.Path) -> bool:
  """A verb can be run: `python -m hyperjax.train`."""
  return "__name__ == '__main__'" in file.read_text() or file.name == '__main__.py'


def library() -> list[pathlib.Path]:
  return sorted((ROOT / 'hyperjax').rglob('*.py'))


def core() -> list[pathlib.Path]:
  """Everything but the verbs and the modules that they share."""
  shared = ('bindings', 'cli', 'processes')
  return [file for file in library() if not is_verb(file) and file.stem not in shared]


def imports(file: pathlib.Path) -> Iterator[tuple[str, bool]]:
  """Top-level packages that a file imports, and whether only inside a function."""
  tree = ast.parse(file.read_text())
  functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
  inside = {id(node) for function in functions for node in ast.walk(function)}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((alias.name.split('.')[0], id(node) in inside) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
      yield (node.module or '').split('.')[0], id(node) in inside


def run_python(code: str) -> None:
  """Runs `code` in a Python of its own, at the root of the repository."""
  command = [sys.executable, '-W', 'ignore', '-c', code]
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]


# --- Imports --------------------------------------------------------------------------------------


def test_the_core_imports_without_tensorflow_seqio_gin_hugging_face_and_grain():
  # absl itself cannot be taken away, since flax, optax and orbax need it: see the next test.
  absent = [name for name in AT_THE_EDGE if name != 'absl']
  absent += ['transformers', 'grain', 'array_record', 'apache_beam']
  modules = [module_name(file) for file in core()]
  assert len(modules) > 10 and 'hyperjax.data' in modules
  run_python(
    f'import sys\nfor name in {absent}: sys.modules[name] = None\n'
    f'import importlib\nfor name in {modules}: importlib.import_module(name)'
  )


def test_what_stays_at_the_edge_is_imported_late_by_the_modules_that_meet_it():
  late = {
    'data.py': {'seqio', 'tensorflow', 'tensorflow_datasets', 'tensorflow_text'},
    'formats.py': {'pyarrow', 'tensorflow'},  # Parquet, TFRecord
    'huggingface.py': {'torch'},  # pytorch_model.bin
  }
  for file in core():
    for name, inside_a_function in imports(file):
      allowed = inside_a_function and name in late.get(file.name, ())
      assert name not in AT_THE_EDGE or allowed, f'{file} imports {name}'


@pytest.mark.parametrize('verb', ['adapt', 'predict'])
def test_verbs_that_use_a_run_import_no_tensorflow_seqio_and_gin(verb):
  absent = [name for name in AT_THE_EDGE if name != 'absl']
  run_python(f'import sys\nfor name in {absent}: sys.modules[name] = None\nimport hyperjax.{verb}')


def test_what_makes_and_stores_episodes_imports_no_jax_and_no_flax():
  # An Apache Beam worker has neither, and a process that forks must not have used JAX.
  absent = [*AT_THE_EDGE, 'jax', 'flax', 'grain', 'orbax']
  run_python(
    f'import sys\nfor name in {absent}: sys.modules[name] = None\nimport hyperjax.stored\n'
    'from hyperjax import data\nassert data.Live("sni").is_assembled'
  )


def test_importing_hyperjax_imports_nothing_heavy():
  run_python(
    'import hyperjax, sys\n'
    'assert hyperjax.__version__ and "load" in dir(hyperjax)\n'
    'heavy = {"jax", "flax", "numpy", "gin", "tensorflow"} & set(sys.modules)\n'
    'assert not heavy, heavy'
  )


def test_an_unknown_name_is_an_attribute_error():
  import hyperjax

  with pytest.raises(AttributeError, match="'hyperjax' has no attribute 'nonsense'"):
    _ = hyperjax.nonsense


# --- Requirements ---------------------------------------------------------------------------------


@functools.cache
def setup_arguments() -> dict:
  """What setup.py says, read from it rather than from what is installed."""
  found: dict = {}
  original = setuptools.setup
  setuptools.setup = found.update
  directory = os.getcwd()
  try:
    os.chdir(ROOT)
    runpy.run_path('setup.py')
  finally:
    os.chdir(directory)
    setuptools.setup = original
  return found


def pins() -> dict[str, str]:
  lines = (ROOT / 'constraints.txt').read_text().splitlines()
  pinned = [line.split('==') for line in lines if line and not line.startswith('#')]
  return {utils.canonicalize_name(name): version for name, version in pinned}


def required() -> list[requirements.Requirement]:
  extras = setup_arguments()['extras_require'].values()
  lines = sum(extras, setup_arguments()['install_requires'])
  return [requirements.Requirement(line) for line in lines]


def test_constraints_pin_a_version_inside_every_range():
  assert len(required()) > 20
  for requirement in required():
    version = pins()[utils.canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), f'{requirement} is pinned at {version}'


def test_setup_requires_what_the_core_imports():
  names = [requirements.Requirement(line).name for line in setup_arguments()['install_requires']]
  direct = {utils.canonicalize_name(name) for name in names}
  distributions = importlib.metadata.packages_distributions()
  for file in core():
    for name, inside_a_function in imports(file):
      if name in sys.stdlib_module_names or name in ('hyperjax', 'tasks'):
        continue
      if name in AT_THE_EDGE and inside_a_function:
        continue
      providers = {utils.canonicalize_name(d) for d in distributions.get(name, ())}
      assert providers & direct, f'{file} imports {name}, which setup.py does not require'


# --- Files ----------------------------------------------------------------------------------------


def test_gin_holds_no_python():
  # A .py file there would shadow the package gin-config.
  assert not list((ROOT / 'gin').rglob('*.py'))


def test_wheel_carries_gin_files_and_tables_inside_the_package_and_no_top_level_gin(tmp_path):
  source = tmp_path / 'source'
  for name in ('hyperjax', 'tasks', 'gin'):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('setup.py', 'pyproject.toml'):
    shutil.copy(ROOT / name, source)
  options = ['--no-deps', '--no-build-isolation', '--no-index', '--quiet']
  command = [sys.executable, '-m', 'pip', 'wheel', *options, '--wheel-dir', str(tmp_path), '.']
  subprocess.run(command, cwd=source, check=True, capture_output=True)
  (wheel,) = tmp_path.glob('hyperjax-*.whl')
  files = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
  gin = {f'hyperjax/{file.relative_to(ROOT)}' for file in (ROOT / 'gin').rglob('*.gin')}
  code = {
    str(file.relative_to(ROOT))
    for name in ('hyperjax', 'tasks')
    for file in (ROOT / name).rglob('*.py')
  }
  tables = {str(f.relative_to(ROOT)) for f in (ROOT / 'hyperjax/sources/tables').iterdir()}
  assert gin and tables
  assert files == gin | code | tables


def committed_text() -> Iterator[tuple[str, str]]:
  listing = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
  for name in filter(None, listing.stdout.split('\0')):
    try:
      yield name, (ROOT / name).read_text(encoding='utf-8')
    except (UnicodeDecodeError, FileNotFoundError):
      continue


def test_no_file_names_a_package_index_or_a_path_of_one_machine():
  if not (ROOT / '.git').exists():
    pytest.skip('not a git checkout')
  index = (
    r'(?:pypi|pythonhosted|npmjs|anaconda|download\.pytorch)\.(?:org|com)|[-]-(?:extra-)?index-url'
  )
  machine = r'(?<![\w.*])/(?:work|root|home/\w+|tmp)/\w'
  for name, text in committed_text():
    found = re.search(index, text) or (name.endswith('.json') is False and re.search(machine, text))
    assert not found, f'{name}: {found[0]}'


# --- The choice of an interpreter -----------------------------------------------------------------


def find_python(path: pathlib.Path, **variables: str) -> subprocess.CompletedProcess:
  environment = {'PATH': str(path), 'PYTHON': '', **variables}
  command = ['/bin/sh', str(ROOT / 'scripts/find_python.sh')]
  return subprocess.run(command, env=environment, capture_output=True, text=True)


def stub(file: pathlib.Path, version: tuple[int, int] | None) -> None:
  """A Python that says it is of this version, or one that does not start, as pyenv's shims do."""
  lie = f'import sys; sys.version_info = {version}'
  run = f'exec "{sys.executable}" -c "{lie}; $2"' if version else 'echo "not found" >&2; exit 127'
  file.write_text(f'#!/bin/sh\n{run}\n')
  file.chmod(0o755)


@pytest.mark.parametrize(
  ('found', 'chosen'),
  [
    ({'python3': (3, 12)}, 'python3'),
    ({'python3': (3, 10), 'python3.11': None, 'python3.13': (3, 13)}, 'python3.13'),
    ({'python3': (3, 14), 'python3.12': (3, 12)}, 'python3.12'),
    ({'python3': (3, 14)}, 'python3'),
    ({'python3': (3, 9), 'python3.14': (3, 14)}, 'python3.14'),
  ],
)
def test_the_best_python_found_is_chosen(tmp_path, found, chosen):
  for name, version in found.items():
    stub(tmp_path / name, version)
  done = find_python(tmp_path)
  assert (done.returncode, done.stdout, done.stderr) == (0, chosen + '\n', '')


def test_no_python_is_one_clear_sentence(tmp_path):
  stub(tmp_path / 'python3', (3, 10))
  done = find_python(tmp_path)
  assert (done.returncode, done.stdout) == (1, '')
  assert done.stderr.startswith('error: no Python 3.11, 3.12 or 3.13')
  assert len(done.stderr.splitlines()) == 1


def test_a_named_python_is_taken_or_refused(tmp_path):
  for name, version in (('old', (3, 10)), ('new', (3, 14))):
    stub(tmp_path / name, version)
  assert find_python(tmp_path, PYTHON='new').stdout == 'new\n'
  for name in ('old', 'absent'):
    done = find_python(tmp_path, PYTHON=name)
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr.startswith(f'error: PYTHON={name} is not a working Python of version 3.11')
