"""Several processes write one data set: shares, deaths, restarts."""

import collections
import gc
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest

from tests.helpers.fake_encoders import encode
from tests.helpers.fake_encoders import FakeText
from tests.helpers.fake_encoders import FakeVAE
from tests.helpers.fake_encoders import GEOMETRY
from tests.helpers.fake_encoders import stories
from tests.helpers.fake_encoders import story
from ttt_jax.data import precompute
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import reader as dataset_reader
from ttt_jax.data.store import writer as writer_lib

ROOT = pathlib.Path(__file__).parents[2]
CLIPS = 9


def boards(count=CLIPS):
  return [
    story(f'clip{i}', (f't{i}', 'a.mp4', i / 16), ('u', 'a.mp4', i / 16))
    for i in range(count)
  ]


# Appends one line to the log for each row that is encoded.
SCRIPT = textwrap.dedent("""
    import os, signal, sys
    import numpy as np
    from tests.data import test_processes as t
    from tests.helpers import fake_encoders
    from ttt_jax.data import shots
    videos, out, log, index, count, die_at = sys.argv[1:]
    class VAE(fake_encoders.FakeVAE):
      def encode(self, frames):
        with open(log, 'a') as f:
          f.write(f'{index} {frames[0, 0, 0, 0]}\\n')
        if self.calls + 1 == int(die_at):
          os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(frames)
    def read_video(path, *, start, frames, height, width, **_):
      numbers = round(start * 16) + np.arange(frames, dtype=np.uint8)
      return numbers[:, None, None, None] * np.ones((height, width, 3), 'u1')
    shots.video_file.read_video = read_video
    done = t.precompute.precompute(
        t.boards(), videos_dir=videos, vae=VAE(),
        text_encoder=fake_encoders.FakeText(), geometry=t.GEOMETRY, out=out,
        progress=False, process_index=int(index), process_count=int(count))
    print('finished' if done else 'others')
""")


class Runs:
  """Starts processes and records the rows that they encode."""

  def __init__(self, videos, folder):
    self.videos, self.out = videos, folder / 'out'
    self._log = folder / 'log'

  def start(self, index, count, die_at=0):
    arguments = [self.videos, self.out, self._log, index, count, die_at]
    return subprocess.Popen(
      [sys.executable, '-c', SCRIPT, *map(str, arguments)],
      cwd=ROOT,
      text=True,
      stdout=subprocess.PIPE,
    )

  def encoded(self):
    """Returns how often each row was encoded."""
    rows = [int(line.split()[1]) for line in self._log.read_text().splitlines()]
    return collections.Counter(rows)


@pytest.fixture(name='runs')
def _runs(videos, tmp_path):
  return Runs(videos, tmp_path)


def same(one, two):
  one, two = map(dataset_reader.LatentDataset, (one, two))
  assert one.manifest == two.manifest and len(one) == len(two)
  for i in range(len(one)):
    for key, value in one[i].items():
      np.testing.assert_array_equal(value, two[i][key])
  np.testing.assert_array_equal(one.null_text, two.null_text)


def test_three_processes_at_once_share_the_clips(runs, videos, tmp_path):
  started = [runs.start(i, 3) for i in range(3)]
  said = [process.communicate()[0].strip() for process in started]
  assert [process.returncode for process in started] == [0, 0, 0]
  assert 'finished' in said and set(said) <= {'finished', 'others'}
  assert runs.encoded() == dict.fromkeys(range(CLIPS), 1)
  encode(videos, tmp_path / 'alone', boards())
  same(runs.out, tmp_path / 'alone')


def test_a_process_that_dies_can_be_restarted(runs, videos, tmp_path):
  """Only the clip during which process 1 died is encoded twice."""
  started = [runs.start(0, 2), runs.start(1, 2, die_at=2)]
  said = [process.communicate()[0].strip() for process in started]
  assert [p.returncode for p in started] == [0, -signal.SIGKILL]
  assert said == ['others', '']
  with pytest.raises(ValueError, match='unfinished'):
    dataset_reader.LatentDataset(runs.out)
  again = runs.start(1, 2)
  assert again.communicate()[0].strip() == 'finished'
  assert runs.encoded() == {i: 1 + (i == 3) for i in range(CLIPS)}
  encode(videos, tmp_path / 'alone', boards())
  same(runs.out, tmp_path / 'alone')


def share(videos, out, index, count, todo=None, vae=None):
  return precompute.precompute(
    boards() if todo is None else todo,
    videos_dir=str(videos),
    vae=vae or FakeVAE(),
    text_encoder=FakeText(),
    geometry=GEOMETRY,
    out=out,
    progress=False,
    process_index=index,
    process_count=count,
  )


def test_another_number_of_processes_can_resume(videos, tmp_path):
  out = tmp_path / 'out'
  assert share(videos, out, 1, 3) is None
  first, second = FakeVAE(), FakeVAE()
  assert share(videos, out, 1, 2, vae=first) is None
  assert share(videos, out, 0, 2, vae=second) is not None
  assert first.calls + second.calls + 3 == CLIPS


def test_a_clip_that_one_process_leaves_out_is_reported_by_all(
  videos, tmp_path
):
  (videos / 'b.mp4').write_text('garbage')
  assert share(videos, tmp_path / 'out', 1, 2, stories()) is None
  done = share(videos, tmp_path / 'out', 0, 2, stories())
  (left_out,) = done.corrupt
  assert left_out['name'] == 'b' and 'as a video' in left_out['reason']
  # After the repair only its process has work to do.
  (videos / 'b.mp4').write_text('100')
  vae = FakeVAE()
  assert share(videos, tmp_path / 'out', 0, 2, stories(), vae) is None
  done = share(videos, tmp_path / 'out', 1, 2, stories(), vae)
  assert vae.calls == 1 and not done.corrupt and len(done.clips) == 3


def test_a_finished_data_set_stays_finished_if_nothing_changes(
  videos, tmp_path, monkeypatch
):
  (videos / 'b.mp4').write_text('garbage')
  encode(videos, tmp_path / 'out')
  reopened = []
  monkeypatch.setattr(writer_lib.LatentWriter, '_reopen', reopened.append)
  vae = FakeVAE()
  assert share(videos, tmp_path / 'out', 1, 3, stories(), vae) is not None
  assert not reopened and not vae.calls


def test_two_processes_that_start_at_once(tmp_path, monkeypatch):
  """The second process creates the folder between two reads of the first."""
  out = tmp_path / 'out'
  manifest = manifest_lib.Manifest(
    vae_identity='v',
    text_identity='t',
    scale=1.0,
    fps=16,
    height=16,
    width=32,
    frames=17,
    segments=2,
    text_length=5,
    mini_batch=8,
  )
  plain = writer_lib.LatentWriter._create

  def start(self):
    monkeypatch.setattr(writer_lib.LatentWriter, '_create', plain)
    writer_lib.LatentWriter(out, manifest, rows=2).write_null_text(
      np.zeros((5, 4))
    )
    plain(self)

  monkeypatch.setattr(writer_lib.LatentWriter, '_create', start)
  assert not writer_lib.LatentWriter(out, manifest, rows=2).finished


def test_jax_numbers_the_processes_and_disconnects():
  """Two Slurm tasks, of which the second ends long after the first."""
  script = textwrap.dedent("""
      import time
      from absl import flags
      from ttt_jax.runtime import distributed
      flags.FLAGS(['x'])
      index, count = distributed.process_index_and_count()
      import jax
      assert jax.device_put(1.0).devices() <= set(jax.local_devices())
      time.sleep(index)
      print(index, count)
  """)
  tasks = []
  for task in '01':
    environment = dict(
      os.environ,
      JAX_PLATFORMS='cpu',
      SLURM_JOB_ID=str(os.getpid()),
      SLURM_STEP_NODELIST='localhost',
      SLURM_NTASKS='2',
      SLURM_PROCID=task,
      SLURM_LOCALID=task,
    )
    tasks.append(
      subprocess.Popen(
        [sys.executable, '-c', script],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
      )
    )
  assert [t.communicate(timeout=60)[0] for t in tasks] == ['0 2\n', '1 2\n']
  assert [t.returncode for t in tasks] == [0, 0]


@pytest.mark.parametrize('index, count', [(2, 2), (-1, 2), (0, 0)])
def test_a_process_index_beyond_the_count(videos, tmp_path, index, count):
  with pytest.raises(ValueError, match=f'process_index is {index}'):
    share(videos, tmp_path / 'out', index, count)
  assert not (tmp_path / 'out').exists()


@pytest.fixture
def eager_collector():
  """Python's own thresholds instead of those of conftest.py."""
  before = gc.get_threshold()
  gc.set_threshold(700, 10, 10)
  yield
  gc.set_threshold(*before)


@pytest.mark.usefixtures('eager_collector')
def test_memory_does_not_grow_with_the_number_of_clips(videos, tmp_path):
  def peak(count):
    todo = [
      story(f'x{i}', ('t', 'a.mp4', 0), ('t', 'b.mp4', i % 16 / 16))
      for i in range(count)
    ]
    # Python collects cycles the later the more objects other tests have left.
    gc.collect()
    gc.freeze()
    tracemalloc.start()
    encode(videos, tmp_path / str(count), todo)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    gc.unfreeze()
    return peak

  encode(videos, tmp_path / 'warm')
  few, many = peak(4), peak(64)
  # The pixels of 60 more clips would be 1.5 MB.
  assert many < few + 500_000
