"""Speed and goodput, on clocks that the tests advance."""

import json
import types

import pytest

from ttt_jax.train import profile as profile_lib
from ttt_jax.train import timing


class Time:
  """A clock that only moves when it is advanced."""

  def __init__(self, monkeypatch, start=1000.0):
    self.now = start
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: self.now)
    monkeypatch.setattr(timing.time, 'time', lambda: self.now)

  def advance(self, seconds):
    self.now += seconds


@pytest.fixture
def time(monkeypatch):
  return Time(monkeypatch)


def _device(kind, process=0, **stats):
  return types.SimpleNamespace(
    device_kind=kind, process_index=process, memory_stats=lambda: stats
  )


def test_a_summary_has_time_and_throughput_of_a_step(time):
  device = _device('TPU v5p', bytes_in_use=2**30, peak_bytes_in_use=3 * 2**30)
  # The memory of another process's chip cannot be read.
  other = _device('TPU v5p', process=1)
  other.memory_stats = None
  timer = timing.StepTimer(
    timing.ClipCost(tokens=500, flops=459e12), 4, [device, other]
  )
  time.advance(50)
  timer.step()  # The step is dispatched and compiled,
  time.advance(10)
  timer.step()  # and completes while the next one is dispatched.
  for _ in range(4):
    with timer.wait_for_data():
      time.advance(0.5)
    time.advance(9.5)
    timer.step()
    with timer.pause():  # A checkpoint is written.
      time.advance(100)
  assert timer.summary() == pytest.approx(
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
  time.advance(10)
  timer.step()
  summary = timer.summary()
  assert summary['time/step'] == pytest.approx(10)
  assert 'time/first_step' not in summary
  assert timing.format_summary(summary) == '10 s per step, MFU 20.0%'


def test_a_device_of_unknown_kind_has_no_mfu(time):
  timer = timing.StepTimer(timing.ClipCost(1, 1.0), 1, [_device('cpu')])
  assert not timer.summary()
  for _ in range(3):
    time.advance(2)
    timer.step()
  assert set(timer.summary()) == {
    'time/first_step',
    'time/step',
    'time/data_share',
    'speed/tokens_per_second_per_chip',
    'speed/tflops_per_chip',
  }


def test_a_restart_loses_unsaved_steps_and_the_time_until_the_next_step(
  time, tmp_path
):
  goodput = timing.Goodput(tmp_path, 0, None)
  for step in range(1, 8):
    time.advance(10)
    goodput.finished(step)
    if step == 5:
      saved = time.now
  assert goodput.summary()['goodput/share'] == 1
  # Killed in step 8; resumes from 5 after 80 s, the first step after 100 s.
  time.advance(80)
  goodput = timing.Goodput(tmp_path, 5, saved)
  time.advance(20)
  goodput.finished(6)
  assert goodput.summary() == {
    'goodput/share': pytest.approx(1 - 120 / 170),
    'goodput/lost_seconds': 120,
    'goodput/redone_steps': 2,
    'goodput/starts': 2,
  }
  # A complete stage that gets more steps a day later loses nothing.
  goodput.close(done=True)
  time.advance(86_400)
  goodput = timing.Goodput(tmp_path, 6, time.now - 86_400)
  goodput.finished(7)
  assert goodput.summary()['goodput/lost_seconds'] == 120


def test_goodput_ignores_a_truncated_file_and_one_of_another_run(
  time, tmp_path
):
  path = tmp_path / timing.GOODPUT_FILE
  path.write_text('{"beg')
  timing.Goodput(tmp_path, 5, time.now).finished(6)
  assert json.loads(path.read_text())['starts'] == 1
  timing.Goodput(tmp_path, 0, None).finished(1)
  assert json.loads(path.read_text())['starts'] == 1


@pytest.mark.parametrize('window', ['5', '5:4', '0:3', 'a:b', '3:'])
def test_invalid_ranges_to_profile(window, tmp_path):
  with pytest.raises(ValueError, match='FIRST:LAST, for example 100:105'):
    profile_lib.Profile(window, tmp_path, 9)
