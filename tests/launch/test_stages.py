"""launch/stages.py: order, skipped stages, signals and failures."""

import os
import pathlib
import subprocess
import sys

import pytest

from launch import chain
from launch import stages as stages_lib

ROOT = pathlib.Path(__file__).parents[2]

# Replaces precompute and train: records the call and writes their results. A
# file named after the stage contains what goes wrong.
FAKE = """
import os, pathlib, signal, sys, time
module, name, steps, workdir, data = sys.argv[1:]
workdir, data = pathlib.Path(workdir), pathlib.Path(data)
with open(workdir / 'calls', 'a') as f:
  print(module.removeprefix('ttt_jax.'), name, file=f)
wrong = (workdir / name).with_suffix('.' + module.removeprefix('ttt_jax.'))
if module.endswith('train'):
  if wrong.exists():
    what = wrong.read_text()
    if what == 'signal':
      end = []
      signal.signal(signal.SIGTERM, lambda *_: end.append(1))
      os.kill(os.getppid(), signal.SIGTERM)
      while not end: time.sleep(0.01)
    elif what != 'peer':
      sys.exit(int(what))
    steps = 1
  (workdir / name / 'checkpoints' / str(steps)).mkdir(parents=True)
elif not wrong.exists():
  data.mkdir(parents=True)
  (data / 'manifest.json').write_text('{}')
"""


@pytest.fixture(name='run')
def _run(tmp_path, monkeypatch):
  """Returns a function that runs the chain to quickstart's 9s.

  The function returns the exit status and the calls so far.
  """

  def command(stage, module, *_):
    return [
      sys.executable,
      '-c',
      FAKE,
      module,
      stage.name,
      str(stage.steps),
      str(tmp_path),
      stage.data,
    ]

  monkeypatch.setattr(chain.Stage, 'command', command)
  monkeypatch.setattr(stages_lib, '_SETTLE_SECONDS', 0)
  stages = chain.stages_up_to('configs/quickstart.py:9s', {}, str(tmp_path))

  def run():
    status = stages_lib.Runner(str(tmp_path), 0).run(stages)
    return status, (tmp_path / 'calls').read_text().split('\n')[:-1]

  return run


FIRST = ['precompute 3s', 'train 3s']
BOTH = [*FIRST, 'precompute 9s', 'train 9s']


def test_every_stage_once(run, capsys):
  assert run() == (0, BOTH)
  assert run() == (0, BOTH)
  out = capsys.readouterr().out
  assert '3s: finished, step 600 is saved' in out
  assert 'all stages are finished: 3s, 9s' in out


def test_a_signal_is_forwarded_and_the_run_resumes(run, tmp_path, capsys):
  wrong = tmp_path / '3s.train'
  wrong.write_text('signal')
  assert run() == (os.EX_TEMPFAIL, FIRST)
  assert 'stopped by SIGTERM at step 1 of 600' in capsys.readouterr().out
  wrong.unlink()
  assert run() == (0, [*FIRST, 'train 3s', *BOTH[2:]])


def test_training_that_another_process_stopped(run, tmp_path, capsys):
  (tmp_path / '9s.train').write_text('peer')
  assert run() == (os.EX_TEMPFAIL, BOTH)
  assert 'stopped by another process' in capsys.readouterr().out


def test_a_failure_ends_the_chain_with_its_status(run, tmp_path, capsys):
  (tmp_path / '3s.train').write_text('3')
  assert run() == (3, FIRST)
  assert 'of stage 3s exited with status 3' in capsys.readouterr().err


def test_data_that_other_processes_do_not_finish(run, tmp_path, capsys):
  (tmp_path / '3s.precompute').touch()
  assert run() == (1, FIRST[:1])
  assert 'did not finish their part' in capsys.readouterr().err


def test_the_papers_stages():
  overrides = {'mesh.data': 64, 'steps': 7, 'init_from': 'pretrained'}
  stages = chain.stages_up_to(
    'configs/ttt_video.py:63s,none', overrides, 'gs://b'
  )
  assert [s.name for s in stages] == ['3s', '9s', '18s', '30s', '63s']
  assert {s.steps for s in stages} == {7}
  assert stages[1].data == 'gs://b/data/9s'
  first, second = (s.command('ttt_jax.train', '--x')[2:] for s in stages[:2])
  assert first == [
    'ttt_jax.train',
    '--config=configs/ttt_video.py:3s,none',
    '--config.mesh.data=64',
    '--config.steps=7',
    '--config.init_from=pretrained',
    '--x',
  ]
  # It would take precedence over the weights of 3s.
  assert second == [
    'ttt_jax.train',
    '--config=configs/ttt_video.py:9s,none',
    '--config.mesh.data=64',
    '--config.steps=7',
    '--x',
  ]


def test_stages_whose_folders_have_longer_names():
  stages = chain.stages_up_to('configs/memory.py:18s,ttt_linear', {}, 'w')
  assert [(s.name, s.config) for s in stages] == [
    ('ttt_linear_3s', 'configs/memory.py:3s,ttt_linear'),
    ('ttt_linear_18s', 'configs/memory.py:18s,ttt_linear'),
  ]


def test_a_config_that_does_not_name_its_stage():
  with pytest.raises(ValueError, match='append it to the file'):
    chain.stages_up_to('configs/memory.py', {}, 'w')


def test_flags_for_all_commands_and_for_training(tmp_path):
  [first, _] = chain.stages_up_to('configs/quickstart.py:9s', {}, str(tmp_path))
  runner = stages_lib.Runner(
    str(tmp_path), 0, ['--process_id=1'], ['--profile_steps=2:3']
  )
  workdir = f'--workdir={tmp_path}'
  assert [c[4:] for c in runner.commands(first)] == [
    [workdir, '--process_id=1'],
    [workdir, '--process_id=1', '--profile_steps=2:3'],
  ]


def test_flags_of_a_chip_and_the_cache(monkeypatch):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  assert stages_lib.environment(None, 'gs://b') == {
    'JAX_COMPILATION_CACHE_DIR': 'gs://b/compilation_cache'
  }
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '/mine')
  found = stages_lib.environment('v5p', 'w')
  assert found['JAX_COMPILATION_CACHE_DIR'] == '/mine'
  assert 'async_all_to_all' in found['LIBTPU_INIT_ARGS']


@pytest.mark.slow
def test_two_real_stages_stopped_and_resumed(tmp_path):
  command = [
    sys.executable,
    '-m',
    'launch.stages',
    '--config=configs/quickstart.py:9s',
    f'--workdir={tmp_path}',
    '--config.checkpoint_every=1',
    '--config.batch_size=2',
    '--config.steps=4',
    '--config.diagnose_every=0',
  ]
  with subprocess.Popen(
    command,
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  ) as process:
    lines = []
    for line in process.stdout:
      lines.append(line)
      if line.startswith('9s: ') and 'ttt_jax.train' in line:
        break
    # While 9s compiles or trains.
    process.terminate()
    rest = process.stdout.read()
  assert process.returncode == os.EX_TEMPFAIL, ''.join(lines) + rest
  assert 'stopped by SIGTERM' in rest
  again = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert again.returncode == 0, again.stdout + again.stderr
  assert '3s: finished, step 4 is saved' in again.stdout
  assert 'precompute' not in again.stdout
  assert 'starts from' in again.stdout or 'continues' in again.stdout
  assert (tmp_path / '9s' / 'checkpoints' / '4').is_dir()
  assert any((tmp_path / 'compilation_cache').iterdir())
