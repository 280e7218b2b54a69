"""A program as XLA plans it: its memory, its order, its exchanges, but no machine code.

For a TPU the plan takes seconds, machine code minutes; and the plan is what a forecast reads.
"""

import dataclasses
import pathlib
import re
import tempfile
import threading
import time
from typing import Any

import jax

from hyperjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What compiling tells: the program's text, and bytes of one device."""

  text: str
  results: int  # that no argument's memory is reused for
  temporaries: int
  peak: int


def compiled(lowered: Any) -> Compiled:
  """Compiles a program to its end."""
  made = lowered.compile()
  stats = made.memory_analysis()
  added = stats.output_size_in_bytes - stats.alias_size_in_bytes
  temporaries = stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
  peak = stats.argument_size_in_bytes + added + temporaries
  return Compiled(made.as_text(), added, temporaries, peak)


def planned(lowered: Any) -> Compiled:
  """Compiles a program until its plan is there; a thread goes on, which nobody waits for.

  A process that leaves while that thread works does so by `os._exit`. Where the compiler leaves no
  plan behind (CPUs leave one of another kind), the program is compiled to its end.
  """
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    options = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
    thread = _Thread(lambda: lowered.compile(compiler_options=options))
    thread.start()
    while thread.is_alive():
      if any(pathlib.Path(folder).glob(f'*.{_LAST}')):
        return _read(pathlib.Path(folder))
      time.sleep(0.05)
    thread.join()
    if thread.error is not None:
      raise thread.error
    return _read(pathlib.Path(folder))


_LAST = 'after_optimizations_after_buffer_assignment.txt'  # begun when the plan is written


class _Thread(threading.Thread):
  """A thread that ends with the process, and keeps its error."""

  def __init__(self, work):
    super().__init__(daemon=True, name='hyperjax-compile')
    self._work, self.error = work, None

  def run(self) -> None:
    try:
      self._work()
    except Exception as error:  # told by the one who waits
      self.error = error


def _read(folder: pathlib.Path) -> Compiled:
  """The plan of the largest program in a folder of XLA's dumps."""
  texts = sorted(folder.glob('*after_optimizations.txt'), key=lambda path: path.stat().st_size)
  if not texts:
    raise InputError(f'XLA left no plan behind with jax {jax.__version__}: compile to the end')
  text = texts[-1]
  buffers = text.with_name(text.name.removesuffix('.txt') + '-buffer-assignment.txt').read_text()
  given, results, temporaries = allocated(buffers)
  return Compiled(text.read_text(), results, temporaries, given + results + temporaries)


def allocated(buffers: str) -> tuple[int, int, int]:
  """(arguments, results, temporaries): bytes in main memory of a buffer assignment's text."""
  sizes = {'arguments': 0, 'results': 0, 'temporaries': 0}
  for size, what in re.findall(r'^allocation \d+: size (\d+), (.*)', buffers, re.MULTILINE):
    if re.match(r'color [1-9]', what):  # the chip's own fast memory, and the like
      continue
    own = what.startswith('parameter')
    out = what.startswith(('output', 'maybe-live-out'))
    sizes['arguments' if own else 'results' if out else 'temporaries'] += int(size)
  return sizes['arguments'], sizes['results'], sizes['temporaries']
