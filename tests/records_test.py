"""model.json says everything that a model is made of, and builds nothing but hyperjax's own."""

import dataclasses
import json

import numpy as np
import pytest

from hyperjax import errors, peft, records
from hyperjax.hypermodels import hypert5, learned
from hyperjax.models import t5

SMALL = t5.T5Config(37, 12, 3, 1, 2, 4, 10, mlp_activations=('relu',), remat='full')
WIDE = dataclasses.replace(SMALL, emb_dim=14, logits_via_embedding=True)


@pytest.mark.parametrize(
  'model',
  [
    t5.T5(SMALL),
    hypert5.HyperT5(WIDE, SMALL, peft.PrefixTuning(5), hidden=7),
    hypert5.HyperT5(WIDE, SMALL, peft.LoRA(3, alpha=2.0, sites=('encoder/mlp/wo',))),
    learned.LearnedPhi(SMALL, peft.PrefixTuning(2, stacks=('decoder',)), hidden=8, embedding=6),
    None,
  ],
  ids=lambda model: type(model).__name__,
)
def test_a_model_comes_back_from_json(model):
  text = json.dumps(records.to_json(model))
  assert records.from_json(json.loads(text)) == model


def test_what_is_of_a_machine_is_not_recorded():
  here = dataclasses.replace(SMALL, attention='blocks')
  assert here != SMALL and records.to_json(t5.T5(here)) == records.to_json(t5.T5(SMALL))


def test_numbers_of_numpy_are_numbers():
  assert records.to_json({'a': (np.int64(3), np.float32(0.5))}) == {'a': [3, 0.5]}


@dataclasses.dataclass
class Odd:
  value: object


@pytest.mark.parametrize('value', [Odd(print), Odd(object()), Odd({1, 2})])
def test_what_json_cannot_hold_is_refused(value):
  with pytest.raises(errors.InputError, match='cannot be written to model.json'):
    records.to_json(value)


@pytest.mark.parametrize(
  'record, says',
  [
    ({'class': 'subprocess.Popen', 'args': 'true'}, 'not a class of hyperjax'),
    ({'class': 'hyperjax.files.write_text', 'path': 'x', 'text': ''}, 'not a dataclass'),
    ({'class': 'hyperjax.errors.InputError', 'args': []}, 'not a dataclass'),
    ({'class': 'hyperjax.models.t6.T6'}, "No module named 'hyperjax.models.t6'"),
    ({'class': 'hyperjax.models.t5.T6'}, "no attribute 'T6'"),
    ({'class': 'hyperjax.models.t5.T5', 'config': None, 'size': 1}, "keyword argument 'size'"),
    ({'class': 'hyperjax.models.t5.T5'}, "required .*argument: 'config'"),
    ({'class': 7}, '7 cannot be built .not a class'),
  ],
)
def test_a_record_that_was_edited_names_its_file_and_class(tmp_path, record, says):
  with pytest.raises(errors.InputError, match=f'^runs/a/model.json: .*{says}.*edited'):
    records.from_json({'class': 'hyperjax.models.t5.T5', 'config': record}, 'runs/a/model.json')


def test_differences_are_named_by_their_path():
  first = {'a': {'b': 1, 'c': [1, 2]}, 'd': None}
  second = {'a': {'b': 1, 'c': [1, 3]}, 'd': {'e': 1}}
  assert records.differences(first, second, 'x') == ['x.a.c', 'x.d']
  assert records.differences(first, first) == []


def test_a_field_that_an_earlier_version_did_not_know_has_its_default():
  model = hypert5.HyperT5(WIDE, SMALL, peft.LoRA(3, sites=('encoder/mlp/wo',)))
  record = json.loads(json.dumps(records.to_json(model)))
  old = json.loads(json.dumps(record))
  del old['trunk']['decoder_bidirectional'], old['method']['alpha'], old['hidden']
  assert records.completed(old) == record == records.completed(record)
  for foreign in ({'class': 'elsewhere.Model', 'size': 3}, {'class': 'hyperjax.models.t5.T5'}):
    assert records.completed(foreign) == foreign
  assert records.completed(None) is None and records.completed(['hypermodel']) == ['hypermodel']
