"""A vocabulary agrees with T5's, survives pickling, and refuses files that cannot be one."""

import pickle

import numpy as np
import pytest
import tiny_data
from sentencepiece import sentencepiece_model_pb2

from hyperjax import errors
from hyperjax.vocabulary import Vocabulary


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return tiny_data.vocabulary(tmp_path_factory.mktemp('vocabulary'))


def test_text_comes_back(vocabulary):
  ids = vocabulary.encode('the red cat reads')
  assert ids.dtype == np.int32
  assert vocabulary.eos_id not in ids
  assert vocabulary.decode(ids) == 'the red cat reads'


def test_many_equals_one_by_one(vocabulary):
  texts = ['the red cat', '', 'dog', 'a big old horse sees'] * 3
  for one, many in zip(map(vocabulary.encode, texts), vocabulary.encode_many(texts), strict=True):
    np.testing.assert_array_equal(one, many)


def test_decoding_stops_at_eos_skips_padding_and_spells_extra_ids(vocabulary):
  cat, dog = vocabulary.encode('cat'), vocabulary.encode('dog')
  ids = [0, *cat, vocabulary.sentinel(3), 0, *dog, vocabulary.x_id, 1, *cat]
  assert vocabulary.decode(ids) == 'cat <extra_id_3> dog <extra_id_10>'
  assert vocabulary.decode([]) == ''


def test_a_row_above_the_vocabulary_decodes_to_unknown(vocabulary):
  assert vocabulary.decode([*vocabulary.encode('cat'), vocabulary.size + 5]) == 'cat ⁇'


def test_markers_are_the_lowest_extra_ids_and_sentinels_count_from_the_top(vocabulary):
  assert vocabulary.size == vocabulary.pieces + 11
  assert (vocabulary.x_id, vocabulary.y_id) == (vocabulary.pieces, vocabulary.pieces + 1)
  assert vocabulary.sentinel(0) == vocabulary.size - 1
  assert vocabulary.sentinel(10) == vocabulary.x_id


def test_pickle_carries_the_path_only(vocabulary):
  vocabulary.encode('loaded')
  copied = pickle.dumps(vocabulary)
  assert len(copied) < 300
  assert pickle.loads(copied) == vocabulary
  assert pickle.loads(copied).sha256 == vocabulary.sha256


def test_extra_ids_inside_the_file_change_nothing(vocabulary, tmp_path):
  model = sentencepiece_model_pb2.ModelProto.FromString(open(vocabulary.path, 'rb').read())
  for i in reversed(range(11)):  # as in T5X's cc_all.32000.100extra
    model.pieces.add(piece=f'▁<extra_id_{i}>', score=0.0, type=4)
  path = tmp_path / '11extra.model'
  path.write_bytes(model.SerializeToString())
  inside = Vocabulary(str(path), extra_ids=11)
  assert (inside.size, inside.x_id, inside.added) == (vocabulary.size, vocabulary.x_id, 0)
  assert vocabulary.added == 11
  ids = [*inside.encode('red'), inside.sentinel(2)]
  assert inside.decode(ids) == vocabulary.decode(ids) == 'red <extra_id_2>'
  with pytest.raises(errors.InputError, match='ends in 11 extra ids, extra_ids is 7'):
    _ = Vocabulary(str(path), extra_ids=7).size


def test_t5_ids(shared_data):
  t5 = Vocabulary(str(shared_data / 'vocab' / 't5_cc_all.32000.sentencepiece.model'))
  assert (t5.size, t5.x_id, t5.y_id, t5.sentinel(0)) == (32100, 32000, 32001, 32099)
  assert t5.encode('Hello world').tolist() == [8774, 296]
  assert t5.sha256 == 'd60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86'
  t5.check_fits(32128)


def test_refuses_a_model_with_fewer_rows(vocabulary):
  vocabulary.check_fits(vocabulary.size)
  with pytest.raises(
    errors.InputError, match=f'{vocabulary.size} ids.*{vocabulary.size - 1} embed'
  ):
    vocabulary.check_fits(vocabulary.size - 1)


def test_refuses_what_is_not_a_vocabulary(tmp_path):
  with pytest.raises(errors.InputError, match=r'missing\.model.*HYPERJAX_VOCABULARY'):
    _ = Vocabulary(str(tmp_path / 'missing.model')).size
  (tmp_path / 'text.model').write_text('not a model' * 50)
  with pytest.raises(errors.InputError, match=r'text\.model is not a sentencepiece model'):
    Vocabulary(str(tmp_path / 'text.model')).encode('a')
  other = tiny_data.train_vocabulary(
    tmp_path / 'other.model', pad_id=-1, eos_id=2, unk_id=0, bos_id=1
  )
  with pytest.raises(errors.InputError, match=r'pad, eos, unk = \(-1, 2, 0\)'):
    Vocabulary(str(other)).encode('a')
  with pytest.raises(errors.InputError, match='extra_ids is 1'):
    Vocabulary('any.model', extra_ids=1)
