"""scripts/slurm and scripts/xpk: shell scripts that run here, with a scheduler that keeps a record."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TRAIN, GKE = ROOT / 'scripts/slurm/train.sbatch', ROOT / 'scripts/xpk/gke.sh'
RESTARTABLE = ROOT / 'scripts/xpk/restartable.sh'
FLAGS = ('--gin_file=gin/a.gin', """--gin.MODEL_DIR='/mnt/it is "$HOME" `x` & \\ ü'""")

TRAINER = """
import pathlib, signal, sys, time
def save(*_):
  print('saved', flush=True)
  sys.exit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path('arguments').write_text(repr(sys.argv[1:]))
time.sleep(float(pathlib.Path('seconds').read_text()))
sys.exit(int(pathlib.Path('status').read_text()))
"""


def executable(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
  """A folder with a trainer that trains for long, and a SLURM of one process."""
  trainer = f'{shlex.quote(sys.executable)} -SE {tmp_path}/trainer.py'
  (tmp_path / 'trainer.py').write_text(TRAINER)
  for name, value in (('seconds', '60'), ('status', '0')):
    (tmp_path / name).write_text(value)
  # As the real one, srun kills its processes when it gets SIGTERM, and scancel asks them to end.
  while_there = '[ "$1" = -- ] || case $1 in -*) shift; continue ;; esac; break'
  srun = f'while :; do {while_there}; done; shift; {trainer} "$@" & echo $! >pid; wait $!'
  executable(tmp_path / 'bin/srun', f'#!/bin/bash\ntrap "kill -9 \\$!" TERM\n{srun}\n')
  executable(
    tmp_path / 'bin/scancel', '#!/bin/sh\necho "scancel $*" >>calls; kill -TERM $(cat pid)'
  )
  executable(tmp_path / 'bin/scontrol', '#!/bin/sh\necho "scontrol $*" >>calls')
  monkeypatch.setenv('PATH', f'{tmp_path}/bin:{os.environ["PATH"]}')
  monkeypatch.setenv('SLURM_JOB_ID', '17')
  return tmp_path


def batch(cluster: pathlib.Path, *flags: str) -> subprocess.Popen:
  """A job that has begun."""
  job = subprocess.Popen(['bash', TRAIN, *flags], cwd=cluster, stdout=-1, stderr=-1, text=True)
  until((cluster / 'arguments').exists)
  return job


def until(condition) -> None:
  """Waits for what another process does."""
  for _ in range(400):
    if condition():
      return
    time.sleep(0.05)
  raise AssertionError('it did not happen')


def calls(cluster: pathlib.Path) -> list[str]:
  """What the scheduler was asked for."""
  file = cluster / 'calls'
  return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize('script', [TRAIN, GKE, RESTARTABLE, *(ROOT / 'scripts/tpu').glob('*.sh')])
def test_a_shell_reads_the_scripts(script):
  subprocess.run(['bash', '-n', script], check=True)
  assert os.access(script, os.X_OK) or script == TRAIN


# -- SLURM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('status', [0, 1, 3])
def test_a_run_gets_its_flags_and_its_status_is_the_job_s(cluster, status):
  (cluster / 'seconds').write_text('0')
  (cluster / 'status').write_text(str(status))
  job = batch(cluster, *FLAGS)
  assert job.wait() == status and calls(cluster) == []
  assert (cluster / 'arguments').read_text() == repr(['-m', 'hyperjax.train', *FLAGS])


def test_before_the_time_limit_the_run_saves_and_the_job_is_queued_again(cluster):
  job = batch(cluster, *FLAGS)
  job.send_signal(signal.SIGUSR1)
  assert job.communicate()[0] == 'saved\n' and job.returncode == 0
  assert calls(cluster) == ['scancel --signal=TERM 17', 'scontrol requeue 17']


def test_a_run_that_cannot_save_is_not_queued_again(cluster):
  job = batch(cluster, *FLAGS)
  executable(cluster / 'bin/scancel', '#!/bin/sh\nkill -9 $(cat pid)')
  job.send_signal(signal.SIGUSR1)
  assert job.wait() == 137 and calls(cluster) == []


def test_preemption_leaves_the_run_time_to_save(cluster):
  job = batch(cluster, *FLAGS)
  job.send_signal(signal.SIGTERM)  # SLURM sends it to the script and to the processes
  time.sleep(0.2)
  assert job.poll() is None
  os.kill(int((cluster / 'pid').read_text()), signal.SIGTERM)
  assert job.communicate()[0] == 'saved\n' and job.returncode == 0
  assert calls(cluster) == []


def test_one_process_a_gpu_is_asked_for():
  options = dict(
    line.removeprefix('#SBATCH --').partition('=')[::2]
    for line in TRAIN.read_text().splitlines()
    if line.startswith('#SBATCH')
  )
  assert options['ntasks-per-node'] == options['gpus-per-node']
  assert options['signal'] == 'B:USR1@300' and 'requeue' in options
  assert options['open-mode'] == 'append'


def test_no_flags_are_one_sentence(cluster):
  done = subprocess.run(['bash', TRAIN], cwd=cluster, capture_output=True, text=True)
  assert done.returncode == 1 and done.stderr.startswith('error: give the flags of hyperjax.train')


# -- XPK -------------------------------------------------------------------------------------------

SETTINGS = {
  **{'PROJECT': 'p', 'ZONE': 'us-west4-a', 'CLUSTER': 'c', 'TYPE': 'v5litepod-64'},
  **{'IMAGE': 'registry/p/hyperjax', 'WORKLOAD': 'w', 'CAPACITY': '--spot'},
}
RECORDER = '#!/bin/sh\nprintf "%s\\0" "$0" "$@" >>"$CALLS"; cat >/dev/null\n'


def gke(*arguments: str, status: int = 0, **settings: str) -> str:
  """What the script prints."""
  environment = {**os.environ, **settings}
  command = ['bash', GKE, *arguments]
  done = subprocess.run(
    command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
  )
  assert done.returncode == status, done.stderr
  return done.stderr if status else done.stdout


@pytest.fixture
def tools(tmp_path, monkeypatch):
  """xpk, docker and kubectl that keep a record."""
  for name in ('xpk', 'docker', 'kubectl'):
    executable(tmp_path / 'bin' / name, RECORDER)
  monkeypatch.setenv('PATH', f'{tmp_path}/bin:{os.environ["PATH"]}')
  monkeypatch.setenv('CALLS', str(tmp_path / 'calls'))
  return tmp_path


@pytest.mark.parametrize('verb', ['cluster', 'image', 'run', 'logs', 'stop', 'delete'])
def test_a_dry_run_prints_what_is_run(tools, verb):
  if verb == 'image' and not (ROOT / '.git').exists():
    pytest.skip('not a git checkout')
  flags = FLAGS if verb == 'run' else ()
  printed = gke(verb, *flags, **SETTINGS, DRY_RUN='1')
  assert calls(tools) == []
  subprocess.run(['bash', '-c', printed], check=True, cwd=ROOT, stdin=subprocess.DEVNULL)
  copied = (tools / 'calls').read_text()
  (tools / 'calls').unlink()
  gke(verb, *flags, **SETTINGS)
  assert (tools / 'calls').read_text() == copied and copied


def test_a_workload_s_command_reaches_the_trainer_as_it_was_given(tools, cluster):
  gke('run', *FLAGS, **SETTINGS)
  arguments = (tools / 'calls').read_text().split('\0')
  assert {'--tpu-type=v5litepod-64', '--spot', '--docker-image=registry/p/hyperjax'} < set(
    arguments
  )
  command = next(each for each in arguments if each.startswith('--command='))
  python = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -SE {cluster}/trainer.py "$@"\n'
  executable(cluster / 'bin/python', python)
  (cluster / 'seconds').write_text('0')
  (cluster / 'scripts/xpk').mkdir(parents=True)
  shutil.copy(RESTARTABLE, cluster / 'scripts/xpk')
  subprocess.run(['bash', '-c', command.removeprefix('--command=')], cwd=cluster, check=True)
  assert (cluster / 'arguments').read_text() == repr(['-m', 'hyperjax.train', *FLAGS])


@pytest.mark.parametrize('status', [0, 1])
def test_a_run_that_is_not_asked_to_stop_keeps_its_status(cluster, status):
  (cluster / 'seconds').write_text('0')
  (cluster / 'status').write_text(str(status))
  command = ['bash', RESTARTABLE, sys.executable, 'trainer.py']
  assert subprocess.run(command, cwd=cluster).returncode == status


def test_a_run_that_saves_when_its_pod_is_taken_away_is_not_taken_for_complete(cluster):
  command = ['bash', RESTARTABLE, sys.executable, 'trainer.py']
  pod = subprocess.Popen(command, cwd=cluster, stdout=-1, text=True)
  until((cluster / 'arguments').exists)
  pod.terminate()
  assert pod.communicate()[0] == 'saved\n' and pod.returncode == 143


@pytest.mark.parametrize(
  ('arguments', 'without', 'said'),
  [
    (['run', '--x'], 'ZONE', 'error: ZONE is not set'),
    (['run', '--x'], 'IMAGE', 'error: run needs IMAGE in the environment'),
    (['run'], '', 'error: run needs the flags of hyperjax.train'),
    (['dance'], '', "error: 'dance' is none of cluster, image, run, logs, stop, delete"),
  ],
)
def test_what_is_missing_is_one_sentence(arguments, without, said):
  found = gke(*arguments, status=1, **{k: '' if k == without else v for k, v in SETTINGS.items()})
  assert found.startswith(said) and len(found.splitlines()) == 1
