"""Questions that are trained on are found, however they are written."""

import pytest
import tiny_data

from hyperjax import contamination, data, episodes
from hyperjax.episodes import NOTHING, EvaluationTask, TaskExamples, examples
from hyperjax.errors import InputError
from hyperjax.sources import c4, mixed
from hyperjax.vocabulary import Vocabulary


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  path = tmp_path_factory.mktemp('vocabulary') / 'tiny.model'
  symbols = list('TDOG.!')
  return Vocabulary(str(tiny_data.train_vocabulary(path, user_defined_symbols=symbols)), 11)


def trained(vocabulary, name: str, *inputs: str) -> TaskExamples:
  return TaskExamples(name, None, (), tuple(examples(vocabulary, [(x, ('y',)) for x in inputs])))


def asked(vocabulary, name: str, *inputs: str) -> EvaluationTask:
  ids = [vocabulary.encode(x) for x in inputs]
  return EvaluationTask(name, None, NOTHING, ids, [('y',)] * len(ids))


def test_inputs_are_compared_without_case_punctuation_and_space(vocabulary):
  tasks = [
    trained(vocabulary, 'cats', 'the red cat', 'a big dog', 'the red cat'),
    trained(vocabulary, 'dogs', 'a big DOG.', 'plum'),
  ]
  found = contamination.overlaps(
    tasks,
    [
      asked(vocabulary, 'first', 'The  red cat!', 'melon', 'a big dog'),
      asked(vocabulary, 'second', 'red the cat'),
      asked(vocabulary, 'first', 'plum'),
    ],
    vocabulary,
  )
  assert found == [
    contamination.Overlap('first', 4, 3, {'cats': 2, 'dogs': 2}),
    contamination.Overlap('second', 1, 0, {}),
  ]


def test_inputs_of_punctuation_alone_are_not_all_alike(vocabulary):
  found = contamination.overlaps(
    [trained(vocabulary, 'marks', '. .')], [asked(vocabulary, 'q', '.', '. .')], vocabulary
  )
  assert found == [contamination.Overlap('q', 2, 1, {'marks': 1})]


def test_the_context_in_front_of_a_question_is_none_of_it(vocabulary):
  one, two = (vocabulary.encode(text) for text in ('the red cat', 'plum'))
  joined, _ = episodes.joined(vocabulary, one, [], two, 30)
  task = EvaluationTask('q', None, NOTHING, [joined], [('y',)])
  names = [trained(vocabulary, text, text) for text in ('the red cat', 'plum')]
  assert contamination.overlaps(names, [task], vocabulary)[0].trained == {'plum': 1}


def test_tasks_are_found_inside_mixtures_of_mixtures(vocabulary, tmp_path):
  tiny_data.repository(tmp_path / 'sni')
  tiny_data.text(tmp_path / 'text')
  lengths = {'hyper_inputs': 64, 'inputs': 40, 'targets': 40}
  text = c4.Clm(window=20, min_segment=4)
  live = lambda mixture: data.Live(
    mixture, lengths=lengths, vocabulary=vocabulary, data_dir=tmp_path
  )
  sni = data.mixtures.get('sni_def')
  names = [task.name for task in contamination.tasks_of(live(sni).episodes)]
  both = live(mixed.Mixed([(sni, 1), (text, 1)])).episodes
  assert [task.name for task in contamination.tasks_of(both)] == names != []
  with pytest.raises(InputError, match='running text'):
    contamination.tasks_of(live(text).episodes)
