"""Truths of small files: what is written comes back, and what cannot be used is named."""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from hyperjax import files
from hyperjax.errors import InputError


def test_json_comes_back_and_nothing_else_is_left(tmp_path):
  path = tmp_path / 'new' / 'report.json'
  value = {'a': np.float32(0.5), 'b': jnp.arange(3), 'c': (1, None), 'd': tmp_path, 'é': True}
  files.write_json(path, {'old': 1})
  files.write_json(path, value)
  expected = {'a': 0.5, 'b': [0, 1, 2], 'c': [1, None], 'd': str(tmp_path), 'é': True}
  assert files.read_json(path) == files.plain(value) == expected
  assert os.listdir(path.parent) == ['report.json']


def test_a_failed_write_keeps_the_old_file(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, 1)
  with pytest.raises(TypeError):
    files.write_json(path, {'a': object()})
  with pytest.raises(UnicodeEncodeError):
    files.write_text(path, 'half \udcff')
  assert files.read_json(path) == 1 and os.listdir(tmp_path) == ['a.json']


@pytest.mark.parametrize(
  'content, words',
  [
    (b'{"a": 1,\n "b": oops}', 'line 2, column 7'),
    (b'{"a": 1', 'line 1'),
    (b'\xff\xfe', 'UTF-8'),
    (None, 'No such file'),
  ],
)
def test_unusable_json_is_named(tmp_path, content, words):
  path = tmp_path / 'a.json'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(InputError, match=f'a.json.*{words}'):
    files.read_json(path)


def test_an_unwritable_place_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match=r'file/a\.json cannot be written'):
    files.write_json(tmp_path / 'file' / 'a.json', 1)
