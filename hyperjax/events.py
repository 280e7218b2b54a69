"""TensorBoard's file of scalars."""

import pathlib
import time

from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2, summary_pb2


class Events:
  """A new file in a folder; what files before it hold of steps after `first` is void.

  Not tensorboardX's SummaryWriter, whose thread and end tell of a full disk in tracebacks.
  """

  def __init__(self, folder: pathlib.Path, first: int):
    self._file = event_file_writer.EventsWriter(str(folder / 'events'))
    started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(first + 1, session_log=started)

  def scalars(self, number: int, values: dict[str, float]) -> None:
    """One event for all values of a step."""
    rows = [summary_pb2.Summary.Value(tag=tag, simple_value=x) for tag, x in values.items()]
    self._write(number, summary=summary_pb2.Summary(value=rows))

  def flush(self) -> None:
    """What was written is in the file."""
    self._file.flush()

  def close(self) -> None:
    """Ends the file."""
    self._file.close()

  def _write(self, number: int, **what: object) -> None:
    self._file.write_event(event_pb2.Event(wall_time=time.time(), step=number, **what))
