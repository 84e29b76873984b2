"""Each step is logged once, also after a kill."""

import json

import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from ttt_jax.runtime import disk
from ttt_jax.train import metrics

# Runs of other tests do not draw.
draw_losses = metrics.plot


def _events(folder):
  """Returns the events of a folder, in the order of their files."""
  found = []
  for path in sorted(folder.glob('events.*'), key=lambda p: p.stat().st_mtime):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], 'little')
      assert masked_crc32c(data[:8]) == int.from_bytes(data[8:12], 'little')
      found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return found


def test_a_restart_discards_rows_after_the_checkpoint(tmp_path):
  with metrics.Writer(tmp_path, 0) as writer:
    for step in (2, 4, 6):
      writer.write(step, dict(loss=float(step)))
  with open(tmp_path / metrics.LOG, 'a') as f:
    f.write('{"step": 8, "lo')  # cut off by a kill
  with metrics.Writer(tmp_path, 4) as writer:
    writer.write(6, dict(loss=60.0))
  rows = metrics.read(tmp_path)
  assert [r['step'] for r in rows] == [2, 4, 6]
  assert [r['loss'] for r in rows] == [2.0, 4.0, 60.0]
  # TensorBoard drops events of the steps after a purge mark.
  purges = [
    e.step for e in _events(tmp_path) if e.HasField('session_log') and e.step
  ]
  assert purges == [1, 5]
  last = [e for e in _events(tmp_path) if e.HasField('summary')][-1]
  assert (last.step, last.summary.value[0].tag) == (6, 'loss')


def test_a_failing_bucket_is_a_warning(tmp_path):
  with pytest.warns(UserWarning, match='gs://b/one cannot be written now: 503'):
    with disk.tolerate_bucket_errors('gs://b/one'):
      raise OSError('503')
  with pytest.raises(OSError), disk.tolerate_bucket_errors(tmp_path):
    raise OSError('full')


def test_means_over_steps_and_by_timestep():
  accumulator = metrics.MetricAccumulator()
  for loss, index in ((1.0, 0), (2.0, 0), (6.0, 9)):
    one_hot = np.eye(metrics.TIMESTEP_BINS)[index]
    accumulator.add(
      {
        'loss': np.float32(loss),
        metrics.LOSS_SUM: loss * one_hot,
        metrics.LOSS_COUNT: one_hot,
      }
    )
  assert accumulator.pop_means() == {
    'loss': 3.0,
    'loss_t/000-099': 1.5,
    'loss_t/900-999': 6.0,
  }
  assert accumulator.pop_means() == {}


def test_diagnostics_become_one_scalar_per_layer():
  found = metrics.scalars(dict(gate=np.ones((2, 3)), loss=np.float32(4.0)))
  assert found == {'gate/00': 1.0, 'gate/01': 1.0, 'loss': 4.0}
  json.dumps(found)


@pytest.mark.parametrize('rows', [[], [dict(step=1, loss=-1.0)]])
def test_plot_of_few_rows(tmp_path, rows):
  text = ''.join(json.dumps(r) + '\n' for r in rows)
  (tmp_path / metrics.LOG).write_text(text)
  draw_losses(tmp_path)
  assert (tmp_path / metrics.PLOT).read_bytes().startswith(b'\x89PNG')
