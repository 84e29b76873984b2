"""Long steps print lines where no bar can be drawn; a notebook redraws."""

import sys
import time
import types

from jax import monitoring
import pytest

from ttt_jax.runtime import progress

_COMPILE = '/jax/core/compile/backend_compile_duration'


@pytest.fixture(autouse=True)
def _short_times(monkeypatch):
  monkeypatch.setattr(progress, '_INTERVAL', 0.02)
  monkeypatch.setattr(progress, '_LONG', 0.05)


def test_a_log_has_a_line_now_and_then(capsys):
  with progress.Bar('training 3s', 4, 1, note='compiling ...') as bar:
    time.sleep(0.1)
    bar.advance('loss 0.5')
    time.sleep(0.1)
    bar.advance('loss 0.4')
    time.sleep(0.1)
    bar.advance('loss [0.3]')
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == 'training 3s ...'
  assert lines[-1].startswith('training 3s: 4/4 loss [0.3], 0.1')
  assert lines[-1].endswith(' s per step')
  assert 'training 3s: 1/4 compiling ...' in lines
  assert 'training 3s: 2/4 loss 0.5' in lines
  (line,) = [x for x in lines if x.startswith('training 3s: 3/4')][:1]
  assert ' s per step, 0:00:0' in line and line.endswith(' left')


def test_nothing_is_printed_after_an_error(capsys):
  try:
    with progress.Bar('encoding', 2):
      raise ValueError
  except ValueError:
    pass
  assert capsys.readouterr().out == 'encoding ...\n'


def test_a_long_compilation_is_announced_with_its_duration(capsys):
  with progress.Bar('sampling', 2) as bar:
    for name, seconds in (('jit(_sample_latents)', 0.12), ('jit(add)', 0.0)):
      monitoring.record_scalar(_COMPILE, time.time(), fun_name=name)
      time.sleep(seconds)
      monitoring.record_event_duration_secs(_COMPILE, seconds, fun_name=name)
    bar.advance()
  monitoring.record_event_duration_secs(_COMPILE, 9.0, fun_name='jit(later)')
  out = capsys.readouterr().out
  assert 'compiling sample latents ...\n' in out
  assert 'compiled sample latents in 0.1 s\n' in out
  assert 'add' not in out and 'later' not in out


def test_work_without_steps_is_mentioned_if_it_is_long(capsys):
  with progress.Bar('loading', None):
    pass
  assert capsys.readouterr().out == ''
  with progress.Bar('loading', None):
    time.sleep(0.12)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == 'loading ...' and lines[-1] == 'loading: 0.1 s'


def test_a_bar_inside_another_one_is_silent(capsys):
  with progress.Bar('outer', 1) as outer:
    for _ in progress.track([1, 2], 'inner'):
      pass
    outer.advance()
  with progress.Bar('next', 1):
    pass
  assert capsys.readouterr().out.splitlines() == [
    'outer ...',
    'outer: 1/1',
    'next ...',
    'next: 0/1',
  ]


def test_a_notebook_redraws_one_cell(capsys, monkeypatch):
  shown = []
  handle = types.SimpleNamespace(update=shown.append)
  display = types.ModuleType('IPython.display')
  display.HTML = str
  display.display = lambda x, display_id: shown.append(x) or handle
  package = types.ModuleType('IPython')
  package.display = display
  monkeypatch.setitem(sys.modules, 'IPython', package)
  bar = progress.Bar('sampling <3s>', 2)
  bar._console.is_jupyter = True
  with bar:
    bar.advance('loss 1')
    time.sleep(0.1)
    bar.advance('loss 0.5')
  assert shown[0].startswith('<progress value="0" max="2">')
  assert any('1/2 loss 1' in text for text in shown)
  assert 'sampling &lt;3s&gt;: 2/2 loss 0.5, 0.1' in shown[-1]
  assert shown[-1].endswith('took 0.1 s')
  assert capsys.readouterr().out == ''
