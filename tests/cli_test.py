"""Verbs: flags as T5X has them, and one sentence for what is wrong."""

import pytest
from absl import flags

from hyperjax import cli, errors

NAMES = ('gin_file', 'gin_bindings', 'gin_search_paths')


@pytest.fixture(scope='module', autouse=True)
def gin_flags():
  if 'gin_file' not in flags.FLAGS:
    cli.define_gin_flags()


@pytest.fixture
def verb(monkeypatch, capsys):
  """Runs a main() with arguments; returns (status, stdout, stderr)."""

  def call(main, *arguments):
    for name in NAMES:
      flags.FLAGS[name].unparse()
    monkeypatch.setattr('sys.argv', ['verb', *arguments])
    with pytest.raises(SystemExit) as caught:
      cli.run(main)
    return caught.value.code or 0, *capsys.readouterr()

  return call


def test_an_input_error_is_one_line_and_status_1(verb):
  def main():
    raise errors.InputError('this is wrong')

  assert verb(main) == (1, '', 'error: this is wrong\n')


def test_what_gin_adds_to_an_error_is_left_out(verb):
  def main():
    raise errors.InputError(
      "size is 'x'\n  In call to configurable 'preset' (<function preset at 0x7f>)\n"
      "  In call to configurable 'T5' (<class 'T5'>)"
    )

  assert verb(main) == (1, '', "error: size is 'x'\n")


def test_success_interruption_and_bugs(verb):
  assert verb(lambda: print('done')) == (0, 'done\n', '')

  def interrupted():
    raise KeyboardInterrupt

  assert verb(interrupted) == (130, '', 'interrupted\n')
  with pytest.raises(ZeroDivisionError):  # ours, to be seen with its traceback
    verb(lambda: 1 / 0)


def test_t5x_s_short_form_of_a_binding(verb):
  seen = []
  main = lambda: seen.append((flags.FLAGS.gin_file, flags.FLAGS.gin_bindings))
  verb(main, '--gin_file=a.gin', '--gin_file=b.gin', '--gin.X="y=z"', '--gin_bindings=a.b = 1')
  assert seen == [(['a.gin', 'b.gin'], ['X = "y=z"', 'a.b = 1'])]


def test_flags_that_are_none(verb):
  main = lambda: None
  status, _, err = verb(main, '--gin_fil=x')
  assert status == 1 and err.startswith("error: Unknown command line flag 'gin_fil'")
  assert err.count('\n') == 1 and 'gin_file' in err
  assert verb(main, 'gin/runs/mtf.gin')[2].startswith("error: 'gin/runs/mtf.gin' is not a flag")


def test_gin_reaches_the_function_of_a_verb(verb, tmp_path, monkeypatch):
  import gin

  gin.clear_config()
  (tmp_path / 'a.gin').write_text(
    'from __gin__ import dynamic_registration\nfrom hyperjax.sources import c4\n'
    'WINDOW = %gin.REQUIRED\nc4.Clm.window = %WINDOW\nc4.Clm.min_segment = 3\n'
  )

  def main():
    from hyperjax.sources import c4

    print(cli.parse_gin().count('WINDOW'), cli.call(c4.Clm, files='x'))

  found = verb(main, '--gin_file=a.gin', f'--gin_search_paths={tmp_path}', '--gin.WINDOW=9')
  assert found == (0, "2 Clm(files='x', window=9, min_segment=3, max_documents=None)\n", '')
  gin.clear_config()
  found = verb(main, '--gin_file=a.gin', f'--gin_search_paths={tmp_path}')
  assert found == (
    1,
    '',
    'error: gin: WINDOW must be set: for instance --gin.WINDOW=VALUE, text in quotes\n',
  )
