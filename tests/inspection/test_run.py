"""The page of a run, while it runs, after its end and after a kill."""

import json
import shutil
import time

import numpy as np
import pytest

from tests.helpers import browser
from tests.helpers import commands
from tests.helpers import videos
from ttt_jax.train import metrics

LAYERS = 2


def _write_rows(stage, steps, start, layers=LAYERS):
  stage.mkdir(parents=True)
  rows = []
  for step in range(1, steps + 1):
    row = dict(step=step, time=start + step, loss=2 / step, grad_norm=1.0)
    row |= {metrics.timestep_bin(i): 1 / step + i for i in (0, 9)}
    row |= {'lr/ttt': 1e-3, 'time/step': 0.5, 'goodput/starts': 1}
    if step % 2 == 0:
      for direction in ('forward', 'reverse'):
        for i in range(layers):
          row[f'{direction}_video_gate/{i:02d}'] = 0.1 * step + i
          row[f'{direction}_inner_loss_before/{i:02d}'] = 1.0
          row[f'{direction}_inner_loss_after/{i:02d}'] = 1 - 0.01 * step
    rows.append(row)
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (stage / metrics.LOG).write_text(text)


def _write_config(stage, step, **fields):
  """Writes what a checkpoint records beside its arrays."""
  config = dict(name='<b>tiny</b>', stage=stage.name, steps=6, **fields)
  meta = dict(format=1, step=step, items=['params'], fingerprint={}, time=1.0)
  meta |= dict(data=dict(identity={}), config=config)
  folder = stage / 'checkpoints' / str(step) / 'meta'
  folder.mkdir(parents=True)
  (folder / 'metadata').write_text(json.dumps(meta))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A finished stage, and one that a kill ended in the middle of a line."""
  folder = tmp_path_factory.mktemp('run')
  _write_rows(folder / '3s', 6, start=1000)
  _write_config(folder / '3s', 6, sample_every=2)
  (folder / '3s' / 'goodput.json').write_text('{"done": true}')
  samples = folder / '3s' / 'samples'
  samples.mkdir()
  for step in (2, 4):
    videos.write(samples / f'{step:06d}.mp4')
  _write_rows(folder / '9s', 4, start=time.time() - 9, layers=12)
  with open(folder / '9s' / metrics.LOG, 'a') as file:
    file.write('{"step": 5, "loss": 0.')
  (folder / 'data').mkdir()
  return folder


def _inspect(*arguments):
  done = commands.run('ttt_jax.inspect', *arguments)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_a_page_of_two_stages(workdir, tmp_path):
  out = tmp_path / 'run.html'
  assert str(out) in _inspect(workdir, f'--out={out}')
  with browser.opened(out, width=browser.NARROW) as visit:
    page = visit.page
    text = page.inner_text('body')
    # The stages in their order, each with what is known of it.
    first, second = text.index('Stage 3s'), text.index('Stage 9s')
    finished, running = text[first:second], text[second:]
    assert 'finished' in finished and '6 of 6' in finished
    assert 'running' in running and '1 line that is damaged' in running
    assert '<b>tiny</b>' in page.inner_text('h1')
    titles = page.locator('figure h4').all_inner_texts()
    assert titles.count('Forward video gate') == 2
    assert titles.count('After minus before, reverse') == 2
    # 2 layers are lines, 12 are a map.
    assert page.locator('#\\39 s svg image').count() == 4
    page.wait_for_function(
      '[...document.querySelectorAll("video")].every(v => v.videoWidth)'
    )
    captions = page.locator('.media figcaption').all_inner_texts()
    assert captions == ['step 4', 'step 2']
    # The values next to the pointer are those of the nearest step.
    chart = page.locator('figure:has-text("Forward video gate") svg').first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box['x'] + box['width'] - 12, box['y'] + 40)
    shown = page.locator('.values:visible').inner_text()
    assert shown.split('\n') == ['step 6', 'layer 1: 1.6', 'layer 0: 0.6']
    assert visit.overflow() <= 0
    assert not visit.problems


def test_large_samples_are_named_but_not_embedded(workdir, tmp_path):
  out = tmp_path / 'run.html'
  size = (workdir / '3s/samples/000004.mp4').stat().st_size
  # The newest sample fits, the one before does not.
  _inspect(
    workdir / '3s', f'--out={out}', f'--embed_mib={1.5 * size * 4 / 3 / 2**20}'
  )
  text = out.read_text()
  assert text.count('<video') == 1
  assert '1 of 2 files are not embedded' in text
  assert '3s/000002.mp4' in text
  assert 'src="data:image/jpeg' in text  # Its first frame.


def test_what_is_not_there_yet_is_said(tmp_path):
  stage = tmp_path / 'w' / 'one'
  (stage / 'checkpoints').mkdir(parents=True)
  _inspect(tmp_path / 'w')
  text = (tmp_path / 'w' / 'inspect.html').read_text()
  for line in ('no metrics yet', 'no values yet', 'There are no samples yet'):
    assert line in text


def test_values_that_are_no_numbers_leave_gaps(workdir, tmp_path):
  stage = tmp_path / '3s'
  shutil.copytree(workdir / '3s', stage)
  rows = metrics.read(stage)
  rows[1] |= dict(loss=np.nan, time='soon')
  rows[3] |= {'forward_video_gate/00': None, 'grad_norm': 'x'}
  rows[4] |= {'time/step': np.nan, 'lr/ttt': 10**400, 'grad_norm': np.inf}
  rows[5] |= {'time/step': np.nan, 'time': -(10**400), 'step': 7}
  (stage / 'goodput.json').unlink()
  (stage / metrics.LOG).write_text('\n'.join(map(json.dumps, rows)))
  _inspect(stage)
  assert 'Forward video gate' in (stage / 'inspect.html').read_text()


def test_other_folders_and_paths(tmp_path):
  def error(*arguments):
    done = commands.run('ttt_jax.inspect', *arguments)
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    return done.stderr

  assert 'metrics.jsonl or checkpoints/' in error(tmp_path)
  assert f'{tmp_path}/no does not exist; name a training run' in error(
    tmp_path / 'no'
  )
  assert 'expected one folder or file, not 0' in error()
  assert 'must end in .html' in error(tmp_path, '--out=x.pdf')
  assert not list(tmp_path.iterdir())
