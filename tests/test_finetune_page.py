"""docs/finetune.md: every command of the page, on a tiny model."""

import os
import pathlib
import re
import subprocess
import sys

from flax import traverse_util
import numpy as np
import pytest

from tests.helpers import tiny_cogvideox
from ttt_jax import convert
from ttt_jax import storyboard
from ttt_jax.checkpoints import checkpoint
from ttt_jax.data.store import reader as dataset_reader
from ttt_jax.video import video_file

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'finetune.md'
# In place of 5000 steps of 64 clips; the page suggests these values, too.
SHORT = ' --config.steps=2 --config.batch_size=2'


def blocks():
  """Returns (language, file name, content) of the page's code blocks."""
  return re.findall(
    r'^```(\w+) ?(\S*)\n(.*?)^```$', PAGE.read_text(), re.M | re.S
  )


def commands():
  return [
    line
    for language, _, content in blocks()
    if language == 'bash'
    for line in content.splitlines()
  ]


def run(command, cwd):
  if command.startswith('ttt-jax train ') and '--dry_run' not in command:
    command += SHORT
  # The script is installed with the package, which a test need not be.
  command = command.replace('ttt-jax ', 'python -m ttt_jax ')
  environment = dict(
    os.environ,
    PYTHONPATH=str(ROOT),
    PATH=f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
    JAX_COMPILATION_CACHE_DIR=str(cwd / 'jax_cache'),
  )
  done = subprocess.run(
    command,
    shell=True,
    cwd=cwd,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
  return done.stdout


def test_the_page_has_every_step():
  text = ' '.join(commands())
  for part in ('--dry_run', '--check', '--process_id', ',9s', 'sample'):
    assert part in text
  assert SHORT.split()[0] in PAGE.read_text()
  assert 'http' not in text


@pytest.mark.slow
def test_walk_through_the_page(tmp_path):
  tiny_cogvideox.write(tmp_path)
  for language, name, content in blocks():
    if language == 'json':
      (tmp_path / name).write_text(content)
  outputs = {command: run(command, tmp_path) for command in commands()}

  printed = ''.join(outputs.values())
  assert '6 segments make 6 clips' in printed
  assert '6 segments make 2 clips' in printed
  assert 'all clips are complete' in printed
  data = dataset_reader.LatentDataset(tmp_path / 'run/data/3s')
  assert [c['name'] for c in data.manifest.clips] == [
    'ep01@0s',
    'ep01@3s',
    'ep01@6s',
    'ep02@0s',
    'ep02@3s',
    'ep02@6s',
  ]
  shared = dataset_reader.LatentDataset(tmp_path / 'shared/data/3s')
  assert shared.manifest == data.manifest
  for i in range(len(data)):
    for key, value in data[i].items():
      np.testing.assert_array_equal(value, shared[i][key])
  prompts = [
    storyboard.Storyboard.parse(clip['storyboard']).prompts()
    for clip in dataset_reader.LatentDataset(
      tmp_path / 'run/data/9s'
    ).manifest.clips
  ]
  assert prompts[0][1].endswith('wall.<end_scene>')
  assert prompts[0][2].startswith('<start_scene>Night.')

  # Two steps with small learning rates hardly change the weights.
  trained, config = checkpoint.load_params(tmp_path / 'run/3s')
  _, pretrained = convert.load_dit(tmp_path / 'CogVideoX-5b')
  flat = traverse_util.flatten_dict(trained)
  for path, value in traverse_util.flatten_dict(pretrained).items():
    change = np.abs(np.asarray(flat[path], np.float32) - value).max()
    assert change < 1e-3, path
  assert config.scheduler == 'cogvideox_dpm'
  assert {
    path[2] for path in set(flat) - set(traverse_util.flatten_dict(pretrained))
  } == {'ttt', 'gates'}
  exported = traverse_util.flatten_dict(
    convert.load_dit(tmp_path / 'exported')[1]
  )
  assert set(exported) == set(flat)
  for path, value in exported.items():
    np.testing.assert_array_equal(value, np.asarray(flat[path]))
  for name, fps in (('story', 16), ('before', 8)):
    info = video_file.probe(tmp_path / f'{name}.mp4')
    found = info.frames, info.height, info.width, info.fps
    assert found == (97, 32, 48, fps)
