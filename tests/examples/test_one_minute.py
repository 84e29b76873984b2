"""examples/one_minute/demo.py: its steps exist, and its checks can fail."""

import importlib.util
import json
import pathlib

import pytest

from examples import demo_steps
from examples.one_minute import demo

MIXERS = ('ttt_mlp', 'none')


@pytest.mark.parametrize(
  'steps', [demo.story_steps(), demo.memory_steps(MIXERS)]
)
def test_steps_name_modules_and_files_that_exist(steps, request):
  for step in steps:
    assert importlib.util.find_spec(step.module)
    for argument in step.arguments:
      for part in argument.partition('=')[2].split(':')[:1]:
        if part.startswith('configs/'):
          assert (request.config.rootpath / part).is_file(), argument


def write(folder: pathlib.Path, name: str, **result):
  (folder / name).write_text(json.dumps(result))


@pytest.mark.parametrize(
  'shown,psnr,good',
  [
    ([[0], [1]], 25.5, True),
    ([[0], [0]], 25.5, False),
    ([[0], [1]], 24.5, False),
  ],
)
def test_story_passes(tmp_path, shown, psnr, good):
  samples = [
    dict(expected=[i], shown=s, psnr=[psnr]) for i, s in enumerate(shown)
  ]
  write(tmp_path, 'captions.json', samples=samples)
  assert demo.story_passes(tmp_path) == good


@pytest.mark.parametrize(
  'ttt,none,good',
  [
    (0.95, 0.35, True),
    (0.85, 0.35, False),
    (0.95, 0.55, False),
  ],
)
def test_memory_passes(tmp_path, ttt, none, good):
  write(tmp_path, 'ttt_mlp.json', share_right=ttt, chance=1 / 3)
  write(tmp_path, 'none.json', share_right=none, chance=1 / 3)
  assert demo.memory_passes(tmp_path, MIXERS) == good


def test_a_step_is_measured(tmp_path, capfd):
  step = demo_steps.Step('hello', 'timeit', ('-n1', '-r1'))
  result = demo_steps.run(step, tmp_path)
  assert result.seconds > 0 and result.peak_mb > 1
  assert '$ python -m timeit -n1 -r1' in capfd.readouterr().out


def test_a_failing_step_ends_the_demonstration(tmp_path, capfd):
  with pytest.raises(SystemExit) as stop:
    demo_steps.run(demo_steps.Step('broken', 'no_such_module', ()), tmp_path)
  assert stop.value.code == 1
  assert "step 'broken' failed" in capfd.readouterr().err
