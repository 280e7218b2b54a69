"""A program as XLA plans it: its memory, its order, its exchanges, but no machine code.

For a TPU the plan takes seconds, machine code minutes; and the plan is what a forecast reads.
"""

import dataclasses
import pathlib
import re
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What compiling tells: the program's text, and bytes of one device."""

  text: str
  results: int  # that no argument's memory is reused for
  temporaries: int
  peak: int


def compiled(lowered: Any) -> Compiled:
  """Compiles a program to its end."""
  return _told(lowered.compile())


def planned(lowered: Any) -> Compiled:
  """Compiles a program until its plan is there; a thread goes on, which nobody waits for.

  A process that leaves while that thread works does so by `os._exit`. Where the compiler ends
  without leaving a plan behind, as for a program out of JAX's cache, the program itself tells.
  """
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
    folder = pathlib.Path(name)
    options = {'xla_dump_to': name, 'xla_dump_hlo_as_text': True}
    thread = _Thread(lambda: lowered.compile(compiler_options=options))
    thread.start()
    while thread.is_alive() and not any(folder.glob(f'*.{_LAST}')):
      time.sleep(0.05)
    if thread.error is not None:
      raise thread.error
    plans = sorted(folder.glob(f'*{_BUFFERS}'), key=lambda path: path.stat().st_size)
    return _read(plans[-1]) if plans else _told(thread.result)


_BUFFERS = '-buffer-assignment.txt'
_LAST = 'after_optimizations_after_buffer_assignment.txt'  # begun when the plan is written


class _Thread(threading.Thread):
  """A thread that ends with the process, and keeps its result or its error."""

  def __init__(self, work: Callable[[], Any]) -> None:
    super().__init__(daemon=True, name='hyperjax-compile')
    self._work = work
    self.result: Any = None
    self.error: Exception | None = None

  def run(self) -> None:
    try:
      self.result = self._work()
    except Exception as error:  # told by the one who waits
      self.error = error


def _told(program: Any) -> Compiled:
  stats = program.memory_analysis()
  added = stats.output_size_in_bytes - stats.alias_size_in_bytes
  temporaries = stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
  peak = stats.argument_size_in_bytes + added + temporaries
  return Compiled(program.as_text(), added, temporaries, peak)


def _read(buffers: pathlib.Path) -> Compiled:
  text = buffers.with_name(buffers.name.removesuffix(_BUFFERS) + '.txt').read_text()
  given, results, temporaries = allocated(buffers.read_text())
  return Compiled(text, results, temporaries, given + results + temporaries)


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
