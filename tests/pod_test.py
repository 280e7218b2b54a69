"""scripts/tpu: what it prints, what it runs, and what its workers do, on a Cloud that is a folder.

The gcloud of these tests keeps a record of its arguments and a slice of two workers, which are two
home directories; what it is told to run there through ssh is really run.
"""

import contextlib
import json
import math
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from hyperjax import topologies
from scripts.tpu import slices

ROOT = pathlib.Path(__file__).parents[1]
WORKERS = ('0', '1')
ZONE = ('--zone=us-west4-a',)
FLAGS = ('--gin_file=gin/a.gin', """--gin.MODEL_DIR='/mnt/it is "$HOME" `x` & \\ ü'""")

GCLOUD = """
import json, os, pathlib, shutil, subprocess, sys
cloud = pathlib.Path(os.environ['CLOUD'])
with open(cloud / 'gcloud.jsonl', 'a') as file:
  print(json.dumps(sys.argv[1:]), file=file)
group, verb, *rest = sys.argv[3:]
flags = dict(each.removeprefix('--').partition('=')[::2] for each in rest if each.startswith('--'))
states = cloud / group
homes = ('0', '1') if flags.get('worker') == 'all' else (flags.get('worker'),)
if verb == 'create':
  states.write_text('WAITING_FOR_RESOURCES ACTIVE' if 'queued' in group else 'READY')
elif verb == 'delete':
  for each in ('tpu-vm', 'queued-resources'):
    (cloud / each).unlink(missing_ok=True)
  for home in ('0', '1'):
    if (cloud / home / 'hyperjax/run.pid').exists():
      os.kill(int((cloud / home / 'hyperjax/run.pid').read_text()), 9)
    shutil.rmtree(cloud / home, ignore_errors=True)
elif verb == 'describe':
  if not states.exists():
    sys.exit('ERROR: NOT_FOUND')
  now, *later = states.read_text().split()
  print(now)
  states.write_text(' '.join(later or [now]))
  if now == 'ACTIVE':
    (cloud / 'tpu-vm').write_text('READY')
elif verb == 'scp':
  for home in homes:
    (cloud / home).mkdir(exist_ok=True)
    shutil.copy(rest[0], cloud / home / (rest[1].partition(':')[2] or pathlib.Path(rest[0]).name))
else:
  status = 0
  for home in homes:
    (cloud / home).mkdir(exist_ok=True)
    there = {**os.environ, 'HOME': str(cloud / home)}
    status |= subprocess.run(['bash', '-c', flags['command']], cwd=cloud / home, env=there).returncode
  sys.exit(status)
"""

PYTHON = """#!/bin/sh
# A Python that makes environments of itself, keeps a record of its arguments, and trains for long.
if [ "$1" = -c ]; then exec {python} "$@"; fi
if [ "$1 $2" = '-m venv' ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && exit; fi
{python} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@" >>"$HOME/python.jsonl"
if [ "$2" = hyperjax.train ]; then echo "it begins"; exec sleep 300; fi
"""


def executable(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
  """A Cloud without slices."""
  if shutil.which('flock') is None:
    pytest.skip('workers are Linux machines with flock, and this is none')
  executable(tmp_path / 'bin/gcloud', f'#!{sys.executable} -SE\n{GCLOUD}')
  executable(tmp_path / 'bin/python3', PYTHON.format(python=sys.executable))
  monkeypatch.setenv('CLOUD', str(tmp_path))
  monkeypatch.setenv('PATH', f'{tmp_path}/bin:{os.environ["PATH"]}')
  yield tmp_path
  for pid in tmp_path.glob('*/hyperjax/run.pid'):
    with contextlib.suppress(ProcessLookupError):
      os.kill(int(pid.read_text()), signal.SIGKILL)


def pod(*arguments: str, status: int = 0) -> str:
  """What a verb prints."""
  command = [sys.executable, '-m', 'scripts.tpu.pod', *arguments]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == status, done.stdout + done.stderr
  return done.stderr if status else done.stdout


def record(file: pathlib.Path) -> list[list[str]]:
  """The arguments of all calls so far, which are forgotten."""
  if not file.exists():
    return []
  lines = [json.loads(line) for line in file.read_text().splitlines()]
  file.unlink()
  return lines


@pytest.fixture
def committed():
  """Workers get what is committed."""
  if not (ROOT / '.git').exists():
    pytest.skip('not a git checkout')


def installed(cloud: pathlib.Path) -> None:
  """The slice with this checkout on its workers, without the time that git and pip take."""
  (cloud / 'tpu-vm').write_text('READY')
  for worker in WORKERS:
    home = cloud / worker / 'hyperjax'
    shutil.copytree(ROOT / 'scripts/tpu', home / 'scripts/tpu')
    executable(home / '.venv/bin/python', PYTHON.format(python=sys.executable))


def until(condition) -> None:
  """Waits for what a detached process does."""
  for _ in range(400):
    if condition():
      return
    time.sleep(0.05)
  raise AssertionError('it did not happen')


def record_of_training(home: pathlib.Path) -> list[list[str]]:
  """What a worker's Python was called with until training began, which is soon."""
  log = home / 'hyperjax/run.log'
  until(lambda: log.exists() and 'it begins' in log.read_text())
  return record(home / 'python.jsonl')


# -- What is printed and run -----------------------------------------------------------------------

VERBS = {
  'create': ['create', 'a', *ZONE, '--type=v4-32', '--spot'],
  'queue': ['create', 'a', *ZONE, '--type=v5litepod-64', '--queued', '--project=p'],
  'install': ['install', 'a', *ZONE],
  'run': ['run', 'a', *ZONE, '--', *FLAGS],
  'resume': ['resume', 'a', *ZONE, '--project=p', '--', *FLAGS],
  'status': ['status', 'a', *ZONE],
  'queue status': ['status', 'a', *ZONE, '--queued'],
  'logs': ['logs', 'a', *ZONE, '--worker=1'],
  'stop': ['stop', 'a', *ZONE],
  'delete': ['delete', 'a', *ZONE, '--yes'],
  'delete queued': ['delete', 'a', *ZONE, '--queued'],
}


@pytest.mark.parametrize('verb', VERBS)
def test_a_dry_run_prints_commands_that_a_shell_reads_as_those_that_are_run(
  cloud, committed, verb, monkeypatch
):
  own, _, flags = shlex.join(VERBS[verb]).partition(' -- ')
  printed = pod(*shlex.split(own), '--dry_run', *(['--', *FLAGS] if flags else []))
  assert record(cloud / 'gcloud.jsonl') == [] and not list(cloud.glob('?'))
  executable(cloud / 'bin/tail', '#!/bin/sh\n')
  for each in ('queued-resources', 'tpu-vm'):
    (cloud / each).write_text('READY')
  subprocess.run(['bash', '-c', printed], cwd=cloud, capture_output=True)
  copied = record(cloud / 'gcloud.jsonl')
  assert copied and all(call[:2] == ['compute', 'tpus'] for call in copied)
  assert all('--zone=us-west4-a' in call for call in copied)
  for each in ('queued-resources', 'tpu-vm'):
    (cloud / each).write_text('READY')
  command = [sys.executable, '-m', 'scripts.tpu.pod', *VERBS[verb]]
  subprocess.run(command, cwd=ROOT, capture_output=True)
  assert record(cloud / 'gcloud.jsonl') == copied


def test_slices_are_asked_for_in_gcloud_s_words(cloud):
  direct = shlex.split(pod(*VERBS['create'], '--dry_run'))
  assert direct[:6] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'create', 'a']
  assert {'--accelerator-type=v4-32', '--version=tpu-ubuntu2204-base', '--spot'} < set(direct)
  queued = shlex.split(pod('create', 'a', *ZONE, '--type=v5e-64', '--queued', '--dry_run'))
  assert queued[3:6] == ['queued-resources', 'create', 'a'] and '--spot' not in queued
  node = {'--node-id=a', '--accelerator-type=v5litepod-64', '--runtime-version=v2-alpha-tpuv5-lite'}
  assert node < set(queued)
  other = pod('create', 'a', *ZONE, '--type=v6e-8', '--runtime=mine', '--dry_run')
  assert '--version=mine' in other and '--accelerator-type=v6e-8' in other


def test_flags_reach_hyperjax_train_on_every_worker_as_they_were_given(cloud):
  installed(cloud)
  said = pod('run', 'a', *ZONE, '--', *FLAGS)
  assert said.count(': started, process') == len(WORKERS)
  for worker in WORKERS:
    assert record_of_training(cloud / worker) == [['-m', 'hyperjax.train', *FLAGS]]


def test_a_run_outlives_the_connection_is_started_once_and_can_be_stopped_and_resumed(cloud):
  installed(cloud)
  pod('run', 'a', *ZONE, '--', *FLAGS)
  until(lambda: pod('status', 'a', *ZONE).count('trains, process') == len(WORKERS))
  processes = [(cloud / worker / 'hyperjax/run.pid').read_text() for worker in WORKERS]
  assert 'trains already, as process' in pod('resume', 'a', *ZONE, '--', *FLAGS, status=1)
  assert processes == [(cloud / worker / 'hyperjax/run.pid').read_text() for worker in WORKERS]
  assert pod('stop', 'a', *ZONE).count('asked process') == len(WORKERS)
  until(lambda: pod('status', 'a', *ZONE).count('nothing runs') == len(WORKERS))
  assert pod('stop', 'a', *ZONE).count('nothing runs') == len(WORKERS)
  pod('resume', 'a', *ZONE, '--', *FLAGS)
  log = cloud / '0/hyperjax/run.log'
  until(lambda: log.read_text().count('it begins') == 2)


def test_launch_makes_a_slice_keeps_a_run_and_replaces_a_slice_that_was_preempted(cloud, committed):
  flags = ('--type=v5e-16', '--poll=0', '--', *FLAGS)
  verbs = lambda: [call[2:4] for call in record(cloud / 'gcloud.jsonl')]
  first = pod('launch', 'a', *ZONE, *flags)
  assert first.count(': installed') == first.count(': started') == len(WORKERS)
  install = [['tpu-vm', 'scp'], ['tpu-vm', 'ssh'], ['tpu-vm', 'ssh']]
  look, create = ['tpu-vm', 'describe'], ['tpu-vm', 'create']
  assert verbs() == [look, create, look, *install]
  for worker in WORKERS:
    pip, train = record_of_training(cloud / worker)
    assert pip[:3] == ['-m', 'pip', 'install'] and pip[-1] == '.[tpu,seqio,gcs]'
    assert train == ['-m', 'hyperjax.train', *FLAGS]
  assert pod('launch', 'a', *ZONE, *flags) == 'a trains already\n'
  assert verbs() == [look, ['tpu-vm', 'ssh']]
  (cloud / 'tpu-vm').write_text('PREEMPTED')
  assert pod('launch', 'a', *ZONE, *flags).count(': started') == len(WORKERS)
  assert verbs() == [look, ['tpu-vm', 'delete'], create, look, *install]


def test_launch_waits_in_the_queue_and_gives_up_with_a_sentence(cloud, committed):
  flags = ('--type=v5e-16', '--queued', '--spot', '--poll=0', '--', *FLAGS)
  said = pod('launch', 'a', *ZONE, *flags)
  assert 'a is WAITING_FOR_RESOURCES; waiting until it is READY' in said and ': started' in said
  groups = [call[2:4] for call in record(cloud / 'gcloud.jsonl')]
  assert groups.count(['queued-resources', 'create']) == 1 and ['tpu-vm', 'create'] not in groups
  (cloud / 'tpu-vm').write_text('STOPPED')
  assert 'a is STOPPED: see to it with gcloud' in pod('launch', 'a', *ZONE, *flags, status=1)


def test_install_mounts_a_share_and_brings_a_python_where_the_image_s_is_too_old(cloud, committed):
  for name in ('python3', 'python3.11', 'python3.12', 'python3.13', 'python3.14', 'mountpoint'):
    executable(cloud / 'bin' / name, '#!/bin/sh\nexit 1\n')
  (cloud / 'python').write_text(PYTHON.format(python=sys.executable))
  record_sudo = 'echo "$*" >>"$CLOUD/sudo"; case $* in *install*python3.12*)'
  brings = f'cp {cloud}/python {cloud}/bin/python3.12 && chmod +x {cloud}/bin/python3.12 ;; esac'
  executable(cloud / 'bin/sudo', f'#!/bin/sh\n{record_sudo} {brings}\n')
  said = pod('install', 'a', *ZONE, '--nfs=10.0.0.2:/share')
  assert said.count(': installed') == len(WORKERS)
  asked = (cloud / 'sudo').read_text().splitlines()
  assert asked.count('mount -t nfs -o hard 10.0.0.2:/share /mnt/shared') == len(WORKERS)
  assert any(line.endswith('install python3.12 python3.12-venv') for line in asked)
  for worker in WORKERS:
    assert record(cloud / worker / 'python.jsonl')[0][:3] == ['-m', 'pip', 'install']


# -- Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['create', 'a', '--type=v4-32'], 'error: the following arguments are required: --zone'),
    (['create', 'a', *ZONE], 'error: the following arguments are required: --type'),
    (['create', 'a', *ZONE, '--type=v7-8'], 'error: --type: v7-8 is no TPU slice; v4, v5e, v5p,'),
    (['create', 'a', *ZONE, '--type=v5e-7'], 'error: --type: v5e-7 is no slice of v5e, which has'),
    (
      ['create', 'a', *ZONE, '--type=v4-4'],
      'error: --type: v4-4 is no slice of v4, which has v4-8',
    ),
    (
      ['launch', 'a', *ZONE, '--type=v5e-64', '--', '--gin_file=gin/pods/v5e-32.gin'],
      'error: --type: v5litepod-64 is not the slice of gin/pods/v5e-32.gin',
    ),
    (['run', 'a', *ZONE], 'error: run needs the flags of hyperjax.train after --'),
    (['logs', 'a', *ZONE, '--', '--x'], 'error: logs takes no flags of hyperjax.train (--x)'),
    (['dance', 'a'], 'error: argument VERB: invalid choice'),
    (['run', 'a', *ZONE, '--gin_file=x'], 'error: unrecognized arguments: --gin_file=x'),
  ],
)
def test_what_cannot_be_done_is_one_sentence(arguments, said):
  found = pod(*arguments, status=1)
  assert found.startswith(said) and len(found.splitlines()) == 1


def test_a_missing_gcloud_is_one_sentence(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  found = pod('stop', 'a', *ZONE, status=1)
  assert found.startswith('error: gcloud is not on PATH') and len(found.splitlines()) == 1
  assert pod('stop', 'a', *ZONE, '--dry_run')


def test_a_command_that_fails_is_told_and_ends_the_verb(cloud):
  executable(cloud / 'bin/gcloud', '#!/bin/sh\necho "ERROR: quota" >&2\nexit 3\n')
  found = pod(*VERBS['create'], status=1).splitlines()
  assert found[0] == 'ERROR: quota' and found[1].startswith('error: gcloud compute tpus tpu-vm')


# -- Slices ----------------------------------------------------------------------------------------

ALL = [f'{kind}-{n * its.per_chip}' for kind, its in slices.KINDS.items() for n in its.shapes]


def test_every_slice_has_as_many_chips_as_its_shape_and_its_number_say():
  assert slices.KINDS.keys() == topologies.CHIPS.keys()
  for name in ALL:
    its = slices.named(name)
    kind, _, shape = its.topology.partition(':')
    assert math.prod(map(int, shape.split('x'))) == its.chips
    assert its.chips == int(name.partition('-')[2]) // (2 if kind in ('v4', 'v5p') else 1)
    assert slices.named(its.accelerator) == its


@pytest.mark.parametrize('name', [name for name in ALL if not name.endswith('-1')])
def test_libtpu_knows_the_shapes(name):  # but of one chip, unless it is told of such hosts
  pytest.importorskip('libtpu')
  its = slices.named(name)
  assert len(topologies.topology(its.topology).devices) == its.chips
