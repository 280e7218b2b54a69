"""`python -m hyperjax.inspect`: what a mixture makes, to be read before a pod is spent on it.

python -m hyperjax.inspect --mixture=sni_def_2pos --data_dir=data --vocabulary=spiece.model
python -m hyperjax.inspect --gin_file=gin/runs/mtf.gin …     # the training data of a run
python -m hyperjax.inspect --mixture=p3_t0_short --against=p3_held_out …     # what it knows
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from hyperjax import adapt, cli, contamination, data, stored
from hyperjax.episodes import NOTHING, Episode
from hyperjax.errors import InputError
from hyperjax.vocabulary import Vocabulary

FLAGS = flags.FLAGS
OF_A_RUN = ('episodes', 'contexts_cut')
"""Statistics that count what a run has used, which here is nothing."""


MIXTURE_FLAGS = (
  *('mixture', 'arguments', 'data_dir', 'vocabulary', 'extra_ids', 'split', 'lengths'),
  *('targets_per_context', 'seed'),
)


def define_flags() -> None:
  """The flags of this verb."""
  define_data_flags()
  flags.DEFINE_integer('examples', 3, 'Episodes to print.', lower_bound=0)
  flags.DEFINE_integer('episodes', 1000, 'Episodes to count lengths and rates on.', lower_bound=1)
  flags.DEFINE_integer('tasks', 20, 'Tasks to list, the most frequent first.', lower_bound=0)
  flags.DEFINE_string(
    'against', None, 'A mixture to be evaluated: how many of its questions are trained on.'
  )
  flags.DEFINE_string('against_arguments', None, 'Fields of that mixture to replace, as JSON.')


def define_data_flags() -> None:
  """Flags that describe a mixture, or name the gin files of a run; hyperjax.cache has them too."""
  flags.DEFINE_string('mixture', None, 'A mixture of hyperjax, or any seqio task.')
  flags.DEFINE_string('arguments', None, 'Fields of the mixture to replace, as JSON.')
  flags.DEFINE_string('data_dir', None, 'Where the data are; HYPERJAX_DATA by default.')
  flags.DEFINE_string('vocabulary', None, 'A sentencepiece file; HYPERJAX_VOCABULARY by default.')
  flags.DEFINE_integer('extra_ids', 100, 'How many extra ids go with --vocabulary.')
  flags.DEFINE_string('split', 'train', 'Which split.')
  flags.DEFINE_string('lengths', json.dumps(dict(data.LENGTHS)), 'Of the features, as JSON.')
  flags.DEFINE_integer('targets_per_context', 1, 'Targets of an episode.', lower_bound=1)
  flags.DEFINE_integer('seed', 0, 'Of the episodes.', lower_bound=0)
  cli.define_gin_flags()


def main() -> None:
  """Prints episodes as text, lengths, rates and what was left out."""
  check_data_flags()
  live = of_run(*run_flags()) if FLAGS.gin_file else of_flags()
  if FLAGS.against_arguments and not FLAGS.against:
    raise InputError('--against_arguments are those of a mixture: give --against too')
  known: list[str] = []
  if FLAGS.against:  # first: it may be misspelled, and the rest takes longer
    trained = live.live if isinstance(live, stored.Stored) else live
    asked = trained.other(FLAGS.against, parsed('against_arguments', 'an object'))
    known = ['', *contaminated(trained, asked, FLAGS.tasks)]
  print('\n'.join(told(live, FLAGS.examples, FLAGS.episodes, FLAGS.tasks) + known))


def check_data_flags() -> None:
  """InputError unless there is a mixture, or a run which needs no more flags."""
  if not FLAGS.gin_file:
    return adapt.require('mixture')
  for name in MIXTURE_FLAGS:
    if FLAGS[name].present:
      raise InputError(f'--gin_file names the data of a run; leave --{name} out')


def of_flags() -> data.Live:
  """The mixture that flags describe."""
  return data.Live(
    FLAGS.mixture,
    FLAGS.split,
    parsed('lengths', 'an object of numbers'),
    FLAGS.targets_per_context,
    FLAGS.targets_per_context,
    FLAGS.seed,
    Vocabulary(FLAGS.vocabulary, FLAGS.extra_ids) if FLAGS.vocabulary else None,
    FLAGS.data_dir,
    parsed('arguments', 'an object'),
  )


def run_flags() -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
  """Gin files, bindings and search paths, as `of_run` takes them."""
  return FLAGS.gin_file, FLAGS.gin_bindings, FLAGS.gin_search_paths


def of_run(files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str]) -> Any:
  """The training data that gin files bind to a run: live, or stored."""
  from hyperjax import bindings as gin_bindings
  from hyperjax import trainer

  gin_bindings.parse(files, bindings, search_paths)
  return gin_bindings.build(trainer.train, {})['data']


def parsed(flag: str, what: str) -> Any:
  """The value of a flag that is a JSON object; None: it is not given."""
  text = FLAGS[flag].value
  if text is None:
    return None
  try:
    value = json.loads(text)
  except json.JSONDecodeError as error:
    raise InputError(f'--{flag}={text} is not JSON ({error.msg})') from error
  if not isinstance(value, dict):
    raise InputError(f'--{flag}={text} is not {what}')
  return value


def told(live: data.Live | stored.Stored, examples: int, episodes: int, tasks: int) -> list[str]:
  """The lines of a report: the head, tasks by rate, lengths, and `examples` episodes as text."""
  vocabulary = live.vocabulary
  head = f'{live.name}, split {live.split}, seed {live.seed}, {live.targets_per_context} targets'
  lines = [f'{head} a context; {vocabulary.path}: {vocabulary.size:,} ids']
  drawn = [episode for episode, _ in zip(_drawn(live), range(max(episodes, examples)))]
  counted = drawn[:episodes]
  if live.is_assembled:
    lines += ['', *_tasks(live, counted, tasks)]
  lines += ['', *_lengths(live, counted)]
  for n, episode in enumerate(drawn[:examples]):
    lines += ['', *_episode(live, n, episode)]
  return lines


def contaminated(trained: data.Live, asked: data.Live, most: int) -> list[str]:
  """A row for each evaluated task with questions that are trained on, the most of them first."""
  tasks = contamination.tasks_of(trained.episodes)
  found = contamination.overlaps(tasks, asked.evaluation_tasks(), trained.vocabulary)
  known = sorted((own for own in found if own.known), key=lambda own: -own.known)
  total, hit = sum(own.questions for own in found), sum(own.known for own in known)
  head = f'{hit:,} of {total:,} questions of {asked.name} are inputs that {trained.name} trains on'
  head += ' (compared whole: the same text under another prompt is not found)'
  if not known:
    return [head]
  rows = [['task', 'questions', 'trained on', 'in']]
  for own in known[:most]:
    where = ', '.join(f'{name} ({count})' for name, count in list(own.trained.items())[:3])
    more = ', …' if len(own.trained) > 3 else ''
    rows.append([own.name, str(own.questions), str(own.known), where + more])
  rest = [f'and {len(known) - most} more tasks'] if len(known) > most else []
  return [head, *columns(rows), *rest]


def _drawn(live: data.Live | stored.Stored) -> Iterator[Episode]:
  """Episodes 0, 1, …; of a seqio task its rows, cut to their lengths."""
  if live.is_assembled:
    yield from (live.episodes(live.seed, n) for n in itertools.count())
  for batch in live.starting_at(0):
    rows = len(batch['encoder_input_tokens'])
    features = ('hyper_input_tokens', 'encoder_input_tokens', 'decoder_target_tokens')
    for i in range(rows):
      context, x, y = (np.trim_zeros(batch[f][i], 'b') if f in batch else NOTHING for f in features)
      yield {'task_id': 0, 'hyper_inputs': context, 'inputs': (x,), 'targets': (y,), 'cut': 0}


def _tasks(live: data.Live | stored.Stored, drawn: list[Episode], most: int) -> list[str]:
  """A row a task: its share of the episodes, and the counts of its statistics."""
  names, statistics = live.episodes.task_names, live.statistics()
  shares = Counter(episode['task_id'] for episode in drawn)
  every = dict.fromkeys(key for counts in statistics.values() for key in counts)
  keys = [key for key in every if key not in OF_A_RUN]
  rows = [['task', 'rate %', *keys]]
  listed = list(zip(names, statistics.values(), strict=True))
  order = sorted(range(len(names)), key=lambda i: -shares[i])
  for i in order[:most]:
    name, counts = listed[i]
    rate = f'{100 * shares[i] / len(drawn):.1f}'
    rows.append([name, rate, *(str(counts.get(key, '-')) for key in keys)])
  total = [str(sum(counts.get(key, 0) for _, counts in listed)) for key in keys]
  rows.append([f'all {len(names)} tasks', '100.0', *total])
  never = len(names) - sum(count > 0 for count in shares.values())
  notes = [f'tasks that are in none of the {len(drawn)} episodes: {never}'] if never else []
  return [*columns(rows), *notes]


def _lengths(live: data.Live | stored.Stored, drawn: list[Episode]) -> list[str]:
  """A row a feature: lengths in tokens, and how often they are more than there is room for."""
  rows = [['feature', 'length', 'mean', 'median', 'longest', 'cut %']]
  for feature in data.LENGTHS:
    room = live.lengths.get(feature, 0)
    if feature == 'hyper_inputs':
      sizes = [len(episode[feature]) for episode in drawn]
      cut = [episode['cut'] > 0 for episode in drawn]
    else:
      sizes = [len(tokens) for episode in drawn for tokens in episode[feature]]
      cut = [size > room for size in sizes]
    stated = (f'{np.mean(sizes):.1f}', f'{np.median(sizes):.0f}', str(max(sizes)))
    rows.append([feature, str(room), *stated, f'{100 * np.mean(cut):.1f}'])
  return columns(rows)


def _episode(live: data.Live | stored.Stored, n: int, episode: Episode) -> list[str]:
  """One episode as text."""
  text = lambda tokens: f'[{len(tokens)}] {_decoded(live.vocabulary, tokens)}'
  name = live.episodes.task_names[episode['task_id']] if live.is_assembled else live.name
  cut = f', {episode["cut"]} parts of the context do not fit whole' if episode['cut'] else ''
  lines = [f'episode {n}: {name}{cut}', f'  hyper_inputs {text(episode["hyper_inputs"])}']
  for x, y in zip(episode['inputs'], episode['targets'], strict=True):
    lines += [f'  inputs {text(x)}', f'  targets {text(y)}']
  return lines


def _decoded(vocabulary: Vocabulary, tokens: np.ndarray) -> str:
  """Text with the markers by their names, and EOS as </s>."""
  said = vocabulary.decode(tokens)
  for marker, i in (('<x>', vocabulary.x_id), ('<y>', vocabulary.y_id)):
    said = said.replace(vocabulary.decode([i]), marker)
  return said + (' </s>' if vocabulary.eos_id in tokens else '')


def columns(rows: list[list[str]]) -> list[str]:
  """Rows of cells as lines: the first column to the left, the others to the right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    '  '.join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]


if __name__ == '__main__':
  define_flags()
  cli.run(main)
