"""Episodes a second on one core: made live, stored, and read back, as batches of numpy arrays.

    python benchmarks/data.py
    python benchmarks/data.py --data=DIR --vocabulary=spiece.model

prints one JSON line. The process keeps to one core. Without --data there are tasks and a vocabulary
of random words (inputs of 10 to 89, outputs of 1 to 19), in a folder that is deleted afterwards.
Lengths are the paper's: 1024, 384 and 128 tokens. Live and stored batches are taken in turn, from
the iterator that a run has; they are compared, and equal. `written` is the rate at which a shard is
made and stored, timed in the same turns. Rates are medians; `stored_over_live` is the median of the
turns' own ratios. Tasks are read and tokenised before, files are in the page cache.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # Grain imports JAX

import numpy as np
import sentencepiece

from hyperjax import data, stored
from hyperjax.vocabulary import Vocabulary


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', help='a data folder with tasks; by default they are made')
  parser.add_argument('--vocabulary', help='a sentencepiece file, with --data')
  parser.add_argument('--mixtures', default='sni_def_fewshot,sni_def_2pos')
  parser.add_argument('--tasks', type=int, default=200, help='made ones')
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--batches', type=int, default=256, help='of a turn')
  parser.add_argument('--shard_size', type=int, default=8192, help='of what is read')
  parser.add_argument('--alternations', type=int, default=5)
  options = parser.parse_args(arguments)
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    if options.data:
      source, vocabulary = pathlib.Path(options.data), Vocabulary(options.vocabulary)
    else:
      source, vocabulary = place, made(place, options.tasks)
    found = {
      name: measured(name, source, vocabulary, place, options)
      for name in options.mixtures.split(',')
    }
  print(
    json.dumps(
      {
        'lengths': dict(data.LENGTHS),
        'batch': options.batch,
        'batches': options.batches,
        'shard_size': options.shard_size,
        'vocabulary': vocabulary.size,
        'mixtures': found,
      }
    )
  )


# -- What is measured ------------------------------------------------------------------------------


def measured(
  mixture: str, source: pathlib.Path, vocabulary: Vocabulary, place: pathlib.Path, options: Any
) -> dict[str, Any]:
  """The rates of a mixture, and how long its episodes are."""
  live = data.Live(mixture, batch_size=options.batch, vocabulary=vocabulary, data_dir=source)
  count, folder = options.batch * options.batches, place / mixture
  ahead = 8 * options.batch  # what the iterator makes before it is asked
  manifest = stored.write(live, folder, count + ahead, options.shard_size)
  read = stored.Stored(str(folder), live)
  _ = read.episodes  # imports Grain
  shards = stored.Shards.of(place / f'{mixture}_again', count, count)
  shards.directory.mkdir()
  turns: dict[str, Callable[[], Any]] = {
    'live': lambda: digest(live.starting_at(0), options.batches),
    'stored': lambda: digest(read.starting_at(0), options.batches),
    'written': lambda: stored.write_shard(live, shards, 0),
  }
  times: dict[str, list[float]] = {name: [] for name in turns}
  for _ in range(options.alternations):
    answers = {}
    for name, turn in turns.items():
      start = time.perf_counter()
      answers[name] = turn()
      times[name].append(time.perf_counter() - start)
    assert answers['live'] == answers['stored'], 'other batches'
  ratios = [a / b for a, b in zip(times['live'], times['stored'], strict=True)]
  size = sum(shard['bytes'] for shard in manifest['shards'])
  return {
    'tasks': len(manifest['tasks']),
    'episodes': count,
    'bytes_each': size / manifest['episodes'],
    'mean_lengths': {name: each['mean'] for name, each in manifest['feature_lengths'].items()},
    **{name: count / statistics.median(each) for name, each in times.items()},
    'stored_over_live': statistics.median(ratios),
    'times': times,
  }


def digest(batches: Iterator[data.Batch], count: int) -> int:
  """A number that batches which differ would not share; ends the thread that makes them."""
  total = 0
  for k in range(count):
    batch = next(batches)
    total += (k + 1) * sum(int(array[-1].sum()) for array in batch.values())
  batches.close()
  for thread in threading.enumerate():
    if thread.name == 'hyperjax-data':
      thread.join()
  return total


# -- Made data -------------------------------------------------------------------------------------


def made(place: pathlib.Path, tasks: int) -> Vocabulary:
  """Writes tasks of random words and a vocabulary of 4,000 of their pieces."""
  rng = np.random.default_rng(0)
  syllables = [a + b for a in 'bdfgklmnprstvz' for b in ('a', 'e', 'i', 'o', 'u', 'an', 'or')]
  words = [''.join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(3000)]
  text = lambda low, high: ' '.join(rng.choice(words, rng.integers(low, high)))
  pair = lambda: {'input': text(10, 90), 'output': [text(1, 20)]}
  folder = place / 'sni' / 'train'
  folder.mkdir(parents=True)
  names = [f'task{i:04}' for i in range(tasks)]
  (folder.parent / 'train_tasks.txt').write_text('\n'.join(names))
  for name in names:
    shots = [{'input': text(10, 90), 'output': text(1, 20), 'explanation': ''} for _ in range(2)]
    card = {'Categories': ['made'], 'Definition': [text(20, 110)], 'Positive Examples': shots}
    lines = [card, *(pair() for _ in range(100))]
    (folder / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([text(10, 90) for _ in range(3000)]),
    model_prefix=str(place / 'made'),
    vocab_size=4000,
    hard_vocab_limit=False,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  return Vocabulary(str(place / 'made.model'))


if __name__ == '__main__':
  sys.exit(main())
