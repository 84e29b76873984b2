"""Speed, and what restarts cost, on clocks that tests turn."""

import json
import types

import pytest

from ttt_jax.train import profile as profile_lib
from ttt_jax.train import timing as clock_lib


class Time:
  """A clock that stands still until it is turned."""

  def __init__(self, monkeypatch, start=1000.0):
    self.now = start
    monkeypatch.setattr(clock_lib.time, 'perf_counter', lambda: self.now)
    monkeypatch.setattr(clock_lib.time, 'time', lambda: self.now)

  def pass_by(self, seconds):
    self.now += seconds


@pytest.fixture
def time(monkeypatch):
  return Time(monkeypatch)


def _device(kind, process=0, **stats):
  return types.SimpleNamespace(
    device_kind=kind, process_index=process, memory_stats=lambda: stats
  )


def test_a_row_has_what_a_step_takes_and_does(time):
  device = _device('TPU v5p', bytes_in_use=2**30, peak_bytes_in_use=3 * 2**30)
  # Nobody can ask for the memory of another process's chip.
  other = _device('TPU v5p', process=1)
  other.memory_stats = None
  clock = clock_lib.Clock(
    clock_lib.Work(tokens=500, flops=459e12), 4, [device, other]
  )
  time.pass_by(50)
  clock.step()  # It is compiled,
  time.pass_by(10)
  clock.step()  # and done while the next one was begun.
  for _ in range(4):
    with clock.data():
      time.pass_by(0.5)
    time.pass_by(9.5)
    clock.step()
    with clock.pause():  # A checkpoint is written.
      time.pass_by(100)
  assert clock.row() == pytest.approx(
    {
      'time/first_step': 60,
      'time/step': 10,
      'time/data_share': 0.05,
      'speed/tokens_per_second_per_chip': 4 * 500 / 10 / 2,
      'speed/tflops_per_chip': 4 * 459 / 10 / 2,
      'speed/mfu': 4 / 10 / 2,
      'memory/in_use_gib': 1,
      'memory/peak_gib': 3,
    }
  )
  time.pass_by(10)
  clock.step()
  row = clock.row()
  assert row['time/step'] == pytest.approx(10)
  assert 'time/first_step' not in row
  assert clock_lib.note(row) == '10 s a step, MFU 20.0%'


def test_a_device_of_unknown_kind_has_no_mfu(time):
  clock = clock_lib.Clock(clock_lib.Work(1, 1.0), 1, [_device('cpu')])
  assert not clock.row()
  for _ in range(3):
    time.pass_by(2)
    clock.step()
  assert set(clock.row()) == {
    'time/first_step',
    'time/step',
    'time/data_share',
    'speed/tokens_per_second_per_chip',
    'speed/tflops_per_chip',
  }


def test_restarts_lose_what_was_not_saved_and_the_time_between(time, tmp_path):
  goodput = clock_lib.Goodput(tmp_path, 0, None)
  for step in range(1, 8):
    time.pass_by(10)
    goodput.finished(step)
    if step == 5:
      saved = time.now
  assert goodput.row()['goodput/share'] == 1
  # Killed in step 8; goes on from 5 after 80 s, the first step after 100.
  time.pass_by(80)
  goodput = clock_lib.Goodput(tmp_path, 5, saved)
  time.pass_by(20)
  goodput.finished(6)
  assert goodput.row() == {
    'goodput/share': pytest.approx(1 - 120 / 170),
    'goodput/lost_seconds': 120,
    'goodput/redone_steps': 2,
    'goodput/starts': 2,
  }
  # A stage that is done and gets more steps a day later lost nothing.
  goodput.close(done=True)
  time.pass_by(86_400)
  goodput = clock_lib.Goodput(tmp_path, 6, time.now - 86_400)
  goodput.finished(7)
  assert goodput.row()['goodput/lost_seconds'] == 120


def test_a_file_that_was_cut_off_or_is_of_another_run(time, tmp_path):
  path = tmp_path / clock_lib.FILE
  path.write_text('{"beg')
  clock_lib.Goodput(tmp_path, 5, time.now).finished(6)
  assert json.loads(path.read_text())['starts'] == 1
  clock_lib.Goodput(tmp_path, 0, None).finished(1)
  assert json.loads(path.read_text())['starts'] == 1


@pytest.mark.parametrize('window', ['5', '5:4', '0:3', 'a:b', '3:'])
def test_windows_to_profile_that_cannot_be(window, tmp_path):
  with pytest.raises(ValueError, match='FIRST:LAST, for example 100:105'):
    profile_lib.Profile(window, tmp_path, 9)
