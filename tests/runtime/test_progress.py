"""Long steps print lines where no bar can be drawn."""

import time

from ttt_jax.runtime import progress


def test_a_log_has_a_line_now_and_then(capsys, monkeypatch):
  monkeypatch.setattr(progress, '_INTERVAL', 0.02)
  with progress.Bar('training 3s', 4, 1, note='compiling ...') as bar:
    time.sleep(0.1)
    bar.advance('loss 0.5')
    time.sleep(0.1)
    bar.advance('loss 0.4')
    time.sleep(0.1)
    bar.advance('loss [0.3]')
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == 'training 3s ...'
  assert lines[-1] == 'training 3s: 4/4 loss [0.3]'
  assert 'training 3s: 1/4 compiling ...' in lines
  assert 'training 3s: 2/4 loss 0.5' in lines
  assert any(x.startswith('training 3s: 3/4 loss 0.4, 0:00:0') for x in lines)


def test_nothing_is_printed_after_an_error(capsys):
  try:
    with progress.Bar('encoding', 2):
      raise ValueError
  except ValueError:
    pass
  assert capsys.readouterr().out == 'encoding ...\n'
