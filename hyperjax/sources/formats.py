"""Rows of Parquet and TFRecord files; their libraries are imported when such a file is read."""

import pathlib
import re
from collections.abc import Collection, Iterator
from typing import Any

from hyperjax import errors

LISTS = ('answer_choices', 'idx', 'inputs', 'targets')
"""Fields of P3's TFRecords that are lists; others hold one value."""


BATCH = 256
"""TFRecords taken at once: one by one they come at a tenth of the rate."""


def parquet(
  path: pathlib.Path, fields: Collection[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
  """The rows of a Parquet file, each with its place ("file row 3") for messages.

  Of their columns those in `fields` (None: all): P3's tokens would take most of the time.
  """
  try:
    from pyarrow import ArrowException
    from pyarrow import parquet as reader
  except ImportError as error:
    raise errors.InputError(
      f'{path} needs pyarrow to be read: pip install "hyperjax[parquet]"'
    ) from error
  number = 0
  try:
    file = reader.ParquetFile(path)
    columns = [name for name in file.schema_arrow.names if fields is None or name in fields]
    for batch in file.iter_batches(columns=columns):
      for row in batch.to_pylist():
        number += 1
        yield f'{path} row {number}', row
  except UnicodeDecodeError as error:
    raise errors.InputError(
      f'{path} after row {number}: not UTF-8 ({error.reason}); convert the file'
    ) from error
  except (ArrowException, OSError, ValueError) as error:
    raise errors.InputError(
      f'{path}: damaged after row {number} ({_first_line(error)}); fetch the file again'
    ) from error


def tfrecord(
  path: pathlib.Path, fields: Collection[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
  """The tf.train.Examples of a TFRecord file, bytes as text, each with its place."""
  try:
    import tensorflow as tf
  except ImportError as error:
    raise errors.InputError(
      f'{path} needs TensorFlow to be read: pip install "hyperjax[seqio]", or export it as JSONL'
      ' or Parquet'
    ) from error
  number = 0
  try:
    batches = tf.data.TFRecordDataset(str(path)).batch(BATCH).as_numpy_iterator()
    for record in (record for batch in batches for record in batch):
      features = tf.train.Example.FromString(record).features.feature
      number += 1
      where = f'{path} record {number}'
      yield (
        where,
        {
          name: _value(name, feature, where)
          for name, feature in features.items()
          if fields is None or name in fields
        },
      )
  except errors.InputError:
    raise
  except Exception as error:  # of TensorFlow and of protobuf, which have no base of their own
    raise errors.InputError(
      f'{path}: damaged after record {number} ({_first_line(error)}); fetch the file again'
    ) from error


def _value(name: str, feature: Any, where: str) -> Any:
  kind = feature.WhichOneof('kind')
  values = [] if kind is None else list(getattr(feature, kind).value)
  if kind == 'bytes_list':
    try:
      values = [value.decode() for value in values]
    except UnicodeDecodeError as error:
      raise errors.InputError(f'{where}: field "{name}" is not UTF-8 ({error.reason})') from error
  return values if name in LISTS or len(values) != 1 else values[0]


def _first_line(error: BaseException) -> str:
  """Of what a library says, without the names of its own parts."""
  return re.sub(r'{{.*?}} *| *\[Op:.*', '', str(error).partition('\n')[0])
