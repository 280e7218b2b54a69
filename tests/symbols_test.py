"""Symbols: the words of a task's answers become others, alike wherever the task says them."""

import dataclasses

import numpy as np
import pytest
import tiny_data

from hyperjax import errors
from hyperjax.episodes import Example, FewShotEpisodes, TaskExamples
from hyperjax.sources import natural_instructions as sni
from hyperjax.sources import symbols

LENGTHS = {'hyper_inputs': 90, 'inputs': 9, 'targets': 9}
NOUNS = ('cat', 'dog', 'bird', 'fish', 'horse', 'black')


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return tiny_data.vocabulary(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def inner(vocabulary):
  """`the cat` is an apple, `in dog` a plum; an answer repeats its noun."""
  pairs = [(f'{a} {n}', f'{b} {n}') for n in NOUNS for a, b in (('the', 'apple'), ('in', 'plum'))]
  encode = vocabulary.encode
  examples = tuple(Example(encode(x), (encode(y),)) for x, y in pairs)
  task = TaskExamples('fruit', encode('apple plum near seven'), (), examples)
  return FewShotEpisodes((task,), vocabulary, LENGTHS, shots=6, targets_per_context=3)


def runs_of(vocabulary, tokens):
  """[definition, in, out, in, out, …] of a context."""
  cuts = np.flatnonzero(np.isin(tokens, (vocabulary.x_id, vocabulary.y_id)))
  return [part[1:].tolist() for part in np.split(tokens, cuts)[1:]]


def test_answers_change_alike_in_definition_context_and_targets(vocabulary, inner):
  words = {word: vocabulary.encode(word).tolist() for word in ('apple', 'plum')}
  assert all(len(ids) == 1 for ids in words.values())
  changed = symbols.SymbolEpisodes(inner, vocabulary)
  assert changed.task_names == ('fruit',) and changed.statistics == inner.statistics
  drawn = set()
  for n in range(150):
    before, after = inner(5, n), changed(5, n)
    old, new = (runs_of(vocabulary, episode['hyper_inputs']) for episode in (before, after))
    shown = sum(words['apple'] == out[:1] for out in old[2::2])
    known = {*(['apple'] if shown > 1 else []), *(['plum'] if 6 - shown > 1 else [])}
    table = {a: b for out, its in zip(old[2::2], new[2::2]) for a, b in zip(out, its) if a != b}
    assert table.keys() <= {words[word][0] for word in known}
    assert len({*table.values()}) == len(table)
    swap = lambda ids, table=table: [table.get(i, i) for i in ids]
    assert new[1::2] == old[1::2]  # inputs stay, and so do the nouns that answers take from them
    assert new[::2] == [swap(part) for part in old[::2]]
    for was, now in zip(before['targets'], after['targets']):
      assert now.tolist() == swap(was.tolist())
    assert all(np.array_equal(*both) for both in zip(before['inputs'], after['inputs']))
    assert before['task_id'] == after['task_id'] and before['cut'] == after['cut']
    again = changed(5, n)
    assert again['hyper_inputs'].tolist() == after['hyper_inputs'].tolist()
    drawn |= {*table.values()}
  begins = vocabulary.begins_word
  assert len(drawn) > 10 and all(begins[i] and vocabulary.unk_id < i < len(begins) for i in drawn)


def test_a_word_that_is_shown_once_or_asked_about_stays(vocabulary, inner):
  once = dataclasses.replace(inner, shots=1)
  both = vocabulary.encode('apple plum')
  task = dataclasses.replace(inner.tasks[0], positives=(Example(both, (both,)),))
  asked = dataclasses.replace(inner, tasks=(task,), positives=1)
  for episodes in (once, asked):
    for n in range(10):
      changed = symbols.SymbolEpisodes(episodes, vocabulary)(0, n)
      assert changed['hyper_inputs'].tolist() == episodes(0, n)['hyper_inputs'].tolist()


def test_a_context_without_a_definition_has_none_that_changes(vocabulary, inner):
  bare = dataclasses.replace(inner, definition=False)
  for n in range(10):
    old, new = (
      runs_of(vocabulary, episodes(0, n)['hyper_inputs'])
      for episodes in (bare, symbols.SymbolEpisodes(bare, vocabulary))
    )
    assert old[::2] == new[::2] and old[1::2] != new[1::2]


def test_the_context_must_stand_apart(tmp_path, vocabulary):
  with pytest.raises(errors.InputError, match='join_context'):
    symbols.Symbols(sni.NaturalInstructions(join_context=True)).episodes(
      tmp_path, vocabulary, LENGTHS
    )


def test_pieces_that_begin_a_word_are_known(vocabulary):
  first = [vocabulary.encode(word)[0] for word in tiny_data.WORDS]
  later = [i for word in tiny_data.WORDS for i in vocabulary.encode(word)[1:]]
  assert vocabulary.begins_word[first].all() and not vocabulary.begins_word[later].any()
  assert len(vocabulary.begins_word) == vocabulary.pieces
