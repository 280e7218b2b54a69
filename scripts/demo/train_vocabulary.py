"""The demo's own vocabulary: a sentencepiece unigram model of docstrings and the demo's tasks.

Ids follow T5: 0 pads, 1 ends, 2 is unknown, nothing begins. Every printable ASCII character is a
piece, so that no English task meets an unknown, and digits stay single.
"""

import argparse
import io
import json
import os
import pathlib
import string
from collections.abc import Iterable, Iterator

import sentencepiece

from hyperjax import errors, files

SIZE = 4000
SAMPLE = 8_000_000  # characters of the documents; the tasks' text is used whole
ASCII = ''.join(sorted(set(string.printable) - set(string.whitespace)))
PIECE_LIMIT = 4000  # bytes: sentencepiece skips longer lines


def train(
  texts: Iterable[str], output: str | pathlib.Path, size: int = SIZE, seed: int = 0
) -> pathlib.Path:
  """Trains a unigram model of `size` pieces on the lines of `texts` and writes it to `output`.

  One thread, so that the same texts give the same bytes. Raises InputError when the texts are too
  few for `size` pieces, or `size` too small for their characters.
  """
  sentencepiece.set_random_generator_seed(seed)
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_lines(texts),
      model_writer=model,
      model_type='unigram',
      vocab_size=size,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      normalization_rule_name='nmt_nfkc',
      required_chars=ASCII,
      character_coverage=0.9995,
      split_digits=True,
      num_threads=1,
      minloglevel=2,
    )
  except (OSError, RuntimeError) as error:
    reason = str(error).rsplit('] ', 1)[-1].strip()  # after the place in sentencepiece's source
    raise errors.InputError(
      f'a vocabulary of {size} pieces cannot be made of these texts: {reason or "they are empty"}'
    ) from error
  output = pathlib.Path(output)
  try:
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix('.tmp')
    temporary.write_bytes(model.getvalue())
    os.replace(temporary, output)
  except OSError as error:
    raise errors.InputError(f'{output} cannot be written ({error.strerror})') from error
  return output


def jsonl_texts(file: str | pathlib.Path, sample: int = SAMPLE) -> Iterator[str]:
  """The field "text" of a JSONL file's lines, until `sample` characters are reached."""
  characters = 0
  for number, line in enumerate(_file_lines(file), start=1):
    if characters >= sample:
      return
    try:
      text = json.loads(line)['text']
    except (ValueError, KeyError, TypeError):
      text = None
    if not isinstance(text, str):
      raise errors.InputError(f'{file}, line {number}: expected a JSON object with a string "text"')
    characters += len(text)
    yield text


def task_texts(directory: str | pathlib.Path) -> Iterator[str]:
  """Definitions, inputs and outputs of the S-NI task files (*.json) in `directory`."""
  found = sorted(pathlib.Path(directory).glob('*.json'))
  if not found:
    raise errors.InputError(f'{directory}: no task files (*.json) are here')
  for file in found:
    task = files.read_json(file)
    try:
      yield from task['Definition']
      for example in (*task['Positive Examples'], *task['Instances']):
        outputs = example['output']
        yield from (example['input'], *([outputs] if isinstance(outputs, str) else outputs))
    except (KeyError, TypeError) as error:
      raise errors.InputError(
        f'{file}: not a task in Super-NaturalInstructions format ({error!r})'
      ) from error


def _file_lines(file: str | pathlib.Path) -> Iterator[str]:
  try:
    with open(file, encoding='utf-8') as lines:
      yield from lines
  except (OSError, UnicodeDecodeError) as error:
    raise errors.InputError(f'{file} cannot be read as UTF-8 text ({error})') from error


def _lines(texts: Iterable[str]) -> Iterator[str]:
  for text in texts:
    for line in text.splitlines():
      if line.strip() and len(line.encode()) <= PIECE_LIMIT:
        yield line


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--text', action='append', default=[], help='JSONL file with "text" fields')
  parser.add_argument('--tasks', action='append', default=[], help='directory of S-NI task files')
  parser.add_argument('--output', required=True, help='the model file to write')
  parser.add_argument('--size', type=int, default=SIZE, help='pieces')
  parser.add_argument('--sample', type=int, default=SAMPLE, help='characters of each --text file')
  arguments = parser.parse_args()
  try:
    texts = [text for directory in arguments.tasks for text in task_texts(directory)]
    for file in arguments.text:
      texts += jsonl_texts(file, arguments.sample)
    output = train(texts, arguments.output, arguments.size)
  except errors.InputError as error:
    raise SystemExit(f'error: {error}') from None
  print(f'{output}: {arguments.size} pieces')


if __name__ == '__main__':
  main()
