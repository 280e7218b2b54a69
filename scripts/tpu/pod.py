"""A TPU slice from nothing to a running, resumed and deleted training run, through gcloud.

    python3 -m scripts.tpu.pod launch my-pod --zone=us-west4-a --type=v5e-64 --spot --queued \\
      -- --gin_file=gin/models/t5_1_1_xl.gin --gin_file=… --gin.MODEL_DIR="'/mnt/shared/runs/xl'"

Every verb takes --dry_run, which prints its commands and runs none of them. docs/launching.md tells
the whole way. Needs gcloud and git, and nothing of hyperjax's own requirements.
"""

import argparse
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time
import typing

from scripts.tpu import slices

ROOT = pathlib.Path(__file__).parents[2]
ARCHIVE = 'hyperjax.tar.gz'  # in the home of each worker
FOLDER = 'hyperjax'  # of the checkout, there

STARTING = ('CREATING', 'STARTING', 'RESTARTING', 'REPAIRING')
QUEUING = ('CREATING', 'ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE')
LOST = ('', 'PREEMPTED', 'TERMINATED', 'SUSPENDING', 'SUSPENDED', 'FAILED')
"""What gcloud says of a slice ('': that there is none)."""

TRAINS = 'this worker trains'
ASK = f"test ! -e {FOLDER}/run.lock || flock -n {FOLDER}/run.lock true || echo '{TRAINS}'"

Command = list[str]


def main() -> None:
  options = parsed(sys.argv[1:])
  if not options.dry_run and shutil.which('gcloud') is None:
    fail('gcloud is not on PATH: install the Google Cloud CLI, or see the commands with --dry_run')
  try:
    VERBS[options.verb](options)
  except subprocess.CalledProcessError as error:
    said = f'{shlex.join(error.cmd[:5])} … ended with status {error.returncode}'
    fail(f'{said}; what it said is above')
  except KeyboardInterrupt:
    sys.exit(130)
  except BrokenPipeError:
    sys.exit(1)


# -- Verbs -----------------------------------------------------------------------------------------


def create(options: argparse.Namespace) -> None:
  """Asks for the slice, and waits until it is there, or stands in the queue (--queued)."""
  run(options, created(options))


def install(options: argparse.Namespace) -> None:
  """Copies this checkout, as committed, to all workers, and installs it there."""
  setup = [f'{FOLDER}/scripts/tpu/setup.sh', *([options.nfs] if options.nfs else [])]
  unpack = f'mkdir -p {FOLDER} && tar -xzf {ARCHIVE} -C {FOLDER} && {shlex.join(setup)}'
  archive = str(ROOT / f'hyperjax-{options.name}.tar.gz')  # which git ignores
  tar = ('archive', '--format=tar.gz', f'--output={archive}', 'HEAD')
  run(options, ['git', '-C', str(ROOT), *tar])
  copy = gcloud(options, 'tpu-vm', 'scp', archive, f'{options.name}:{ARCHIVE}', '--worker=all')
  run(options, copy, tries=10)  # a machine that has just started does not answer yet
  run(options, on_workers(options, unpack))


def start(options: argparse.Namespace) -> None:
  """Starts or resumes training on all workers; it goes on when this connection has ended."""
  run(options, on_workers(options, script('start', *options.flags)))


def launch(options: argparse.Namespace) -> None:
  """Creates what is not there, or was preempted; waits; installs; starts or resumes training."""
  state = '' if options.dry_run else found(options)
  if state == 'READY' and TRAINS in said(on_workers(options, ASK)):
    print(f'{options.name} trains already')
    return
  if state in LOST:
    if state:
      run(options, deleted(options, '--quiet'))
    create(options)
  if not options.dry_run:
    wait(options)
  install(options)
  start(options)


def status(options: argparse.Namespace) -> None:
  """The state of the slice, and a line from every worker."""
  run(options, described(options))
  run(options, on_workers(options, script('status')))


def logs(options: argparse.Namespace) -> None:
  """Follows the log of a worker."""
  follow = ['tail', f'--lines={options.lines}', '--follow=name', '--retry', f'{FOLDER}/run.log']
  run(options, on_workers(options, shlex.join(follow), options.worker))


def stop(options: argparse.Namespace) -> None:
  """Asks the run to save and to end."""
  run(options, on_workers(options, script('stop')))


def delete(options: argparse.Namespace) -> None:
  """Gives the slice back, with all that is on its disks; gcloud asks first, unless --yes."""
  run(options, deleted(options, *(['--quiet'] if options.yes else [])))


VERBS = {
  'create': create,
  'install': install,
  'run': start,
  'resume': start,
  'launch': launch,
  'status': status,
  'logs': logs,
  'stop': stop,
  'delete': delete,
}


# -- Commands --------------------------------------------------------------------------------------


def created(options: argparse.Namespace) -> Command:
  """The command that asks for a slice."""
  its = slices.named(options.type)
  kind = f'--accelerator-type={its.accelerator}'
  spot = ['--spot'] if options.spot else []
  version = options.runtime or its.runtime
  if options.queued:
    node = (f'--node-id={options.name}', kind, f'--runtime-version={version}')
    return gcloud(options, 'queued-resources', 'create', options.name, *node, *spot)
  return gcloud(options, 'tpu-vm', 'create', options.name, kind, f'--version={version}', *spot)


def deleted(options: argparse.Namespace, *more: str) -> Command:
  """The command that gives a slice back."""
  if options.queued:
    return gcloud(options, 'queued-resources', 'delete', options.name, '--force', *more)
  return gcloud(options, 'tpu-vm', 'delete', options.name, *more)


def described(options: argparse.Namespace, group: str | None = None) -> Command:
  """The command that tells the state of a slice, or that of its place in the queue."""
  group = group or ('queued-resources' if options.queued else 'tpu-vm')
  field = 'state.state' if group == 'queued-resources' else 'state'
  return gcloud(options, group, 'describe', options.name, f'--format=value({field})')


def on_workers(options: argparse.Namespace, command: str, worker: str = 'all') -> Command:
  """A shell command on one worker or all of them, through ssh."""
  where = (f'--worker={worker}', f'--command={command}')
  return gcloud(options, 'tpu-vm', 'ssh', options.name, *where)


def script(name: str, *arguments: str) -> str:
  """A script beside this file, as a worker's shell reads it."""
  return shlex.join([f'{FOLDER}/scripts/tpu/{name}.sh', *arguments])


def gcloud(options: argparse.Namespace, group: str, *arguments: str) -> Command:
  """A command of gcloud on the slice's zone and project."""
  project = [f'--project={options.project}'] if options.project else []
  return ['gcloud', 'compute', 'tpus', group, *arguments, f'--zone={options.zone}', *project]


def run(options: argparse.Namespace, command: Command, tries: int = 1) -> None:
  """Prints a command, and runs it unless it is a dry run."""
  print(shlex.join(command), flush=True)
  for left in reversed(range(0 if options.dry_run else tries)):
    if subprocess.run(command, check=left == 0).returncode == 0:
      return
    time.sleep(options.poll)


def found(options: argparse.Namespace) -> str:
  """The slice's state; where it is not there (yet), that of its place in the queue, or ''."""
  state = said(described(options, 'tpu-vm'))
  if options.queued and state in ('', *STARTING):
    return said(described(options, 'queued-resources'))
  return state


def said(command: Command) -> str:
  """What a command prints, or '' where it fails, as for what is not there."""
  nobody = subprocess.DEVNULL  # to answer what gcloud may ask, unseen
  return subprocess.run(command, stdin=nobody, capture_output=True, text=True).stdout.strip()


def wait(options: argparse.Namespace) -> None:
  """Returns when the slice is there."""
  last = None
  while (state := found(options)) != 'READY':
    if state not in (*STARTING, *QUEUING):
      what = 'the same command asks for it again' if state in LOST else 'see to it with gcloud'
      fail(f'{options.name} is {state or "not there"}: {what}')
    if state != last:
      print(f'{options.name} is {state}; waiting until it is READY', flush=True)
    last = state
    time.sleep(options.poll)


# -- Flags -----------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
  """Errors are one sentence, and status 1."""

  def error(self, message: str) -> typing.NoReturn:
    fail(message)


def parsed(arguments: list[str]) -> argparse.Namespace:
  """The verb and its flags; what follows `--` is for hyperjax.train."""
  own, flags = arguments, []
  if '--' in arguments:
    at = arguments.index('--')
    own, flags = arguments[:at], arguments[at + 1 :]
  parser = Parser(
    prog='pod', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB', parser_class=Parser)
  for name, verb in VERBS.items():
    summary = (verb.__doc__ or '').partition('\n')[0]
    define(verbs.add_parser(name, help=summary, description=summary), name)
  options = parser.parse_args(own)
  options.flags = flags
  check(options)
  return options


def define(parser: argparse.ArgumentParser, verb: str) -> None:
  """The flags of a verb."""
  parser.add_argument('name', help='of the slice')
  parser.add_argument('--zone', required=True, help='such as us-west4-a')
  parser.add_argument('--project', help="Cloud's project; gcloud's own by default")
  parser.add_argument('--dry_run', action='store_true', help='print the commands, run none')
  parser.add_argument('--poll', type=float, default=15, help='seconds between two looks')
  if verb in ('create', 'launch'):
    parser.add_argument('--type', required=True, help='such as v5e-64, v4-32, v5p-128, v6e-16')
    parser.add_argument('--runtime', help="image of the machines; the type's usual one by default")
    parser.add_argument('--spot', action='store_true', help='cheaper, and taken away at any time')
  if verb in ('create', 'launch', 'status', 'delete'):
    parser.add_argument('--queued', action='store_true', help='stand in a queue until there is one')
  if verb in ('install', 'launch'):
    parser.add_argument('--nfs', metavar='SERVER:/SHARE', help='mounted as /mnt/shared')
  if verb == 'logs':
    parser.add_argument('--worker', default='0', help='which one; 0 by default')
    parser.add_argument('--lines', type=int, default=100, help='how many of those before')
  if verb == 'delete':
    parser.add_argument('--yes', action='store_true', help='do not ask')


def check(options: argparse.Namespace) -> None:
  """Refuses what no command could be made of."""
  trains = options.verb in ('run', 'resume', 'launch')
  if trains and not options.flags:
    fail(f'{options.verb} needs the flags of hyperjax.train after --, such as -- --gin_file=…')
  if options.flags and not trains:
    fail(f'{options.verb} takes no flags of hyperjax.train ({options.flags[0]})')
  if hasattr(options, 'type'):
    try:
      check_preset(slices.named(options.type), options.flags)
    except ValueError as error:
      fail(f'--type: {error}')


def check_preset(its: slices.Slice, flags: list[str]) -> None:
  """Refuses a file of gin/pods that is another slice's, before any is paid for."""
  for name in re.findall(r'gin/pods/([^/\s]+)\.gin', ' '.join(flags)):
    if slices.named(name) != its:
      raise ValueError(f'{its.accelerator} is not the slice of gin/pods/{name}.gin')


def fail(message: str) -> typing.NoReturn:
  """Prints `error: …` and exits with status 1."""
  print(f'error: {message}', file=sys.stderr, flush=True)
  sys.exit(1)


if __name__ == '__main__':
  main()
