"""launch/plan.py: modes, meshes, and the programs that it compiles."""

import json
import pathlib
import types

import jax
import pytest

from launch import plan
from launch import topology
from launch.planner import advice
from launch.planner import compiled
from launch.planner import program
from launch.planner import report
from tests.helpers import commands
from tests.helpers import configs
from ttt_jax import sharding
from ttt_jax.checkpoints import train_state
from ttt_jax.models.dit import mixers

quickstart = configs.load('quickstart')
ttt_video = configs.load('ttt_video')


@pytest.mark.parametrize(
  'mesh, message',
  [
    (dict(data=64, sp=5), 'needs 320 devices; v5p:8x8x4 has 256'),
    (dict(data=8, sp=32), 'sp 32 does not divide the 48 heads'),
    (dict(data=48, sp=4), 'data 48 does not divide the batch'),
  ],
)
def test_invalid_meshes(mesh, message):
  config = ttt_video.get_config('63s')
  with pytest.raises(ValueError, match=message):
    plan.prepare(config, topology.parse('v5p:8x8x4'), mesh)


def test_errors_of_the_command_are_one_line():
  out = commands.run(
    'launch.plan',
    '--topology=v9:1x1',
    '--config=configs/ttt_video.py:3s',
  )
  assert out.returncode == 2
  assert out.stderr.splitlines()[-1].startswith("error: topology 'v9:1x1'")


@pytest.mark.slow
def test_the_step_of_the_trainer_for_this_machine():
  config = quickstart.get_config('3s')
  config.data.height = config.data.width = 32
  config.model.update(
    model_dim=32,
    num_heads=2,
    num_layers=3,
    time_embed_dim=16,
    text_dim=12,
    remat='layer',
  )
  config.batch_size = 2
  mesh = dict(data=1, sp=1)
  topology_ = topology.parse('v5e:1x1')
  plan.prepare(config, topology_, mesh)
  config.model.implementation = 'xla'
  device_mesh = sharding.make_mesh(mesh)
  done = compiled.compile_program(
    *program.train_step(config, device_mesh), device_mesh
  )
  found = report.results(config, 'train', topology_, done, {})
  assert found['memory']['peak'] > found['memory']['arguments'] > 0
  # The forward pass and its gradient, each a loop over the layers.
  assert max(r.times for r in done.program.executions()) >= 3
  flops = found['flops']
  assert sum(flops['forward'].values()) < sum(flops['backward'].values())
  # Remat recomputes the forward pass, and the inner loop's kernel replays its
  # own part once more.
  part = 'mixer scan'
  assert flops['recompute'] == flops['forward'] | {
    part: 2 * flops['forward'][part]
  }
  assert sum(found['parameters'].values()) > 0
  report.print_results(json.loads(json.dumps(found)), topology_.chip)


def test_sampling_is_the_pipelines_loop():
  config = quickstart.get_config('3s')
  config.data.height = config.data.width = 32
  config.model.update(
    model_dim=32,
    num_heads=2,
    num_layers=2,
    time_embed_dim=16,
    text_dim=12,
    implementation='xla',
    dtype='bfloat16',
  )
  mesh = dict(data=1, sp=1)
  function, arguments = program.sampling(config, sharding.make_mesh(mesh))
  kernels = {
    path: leaf.dtype
    for path, leaf in train_state.flatten(arguments[0]).items()
    if path.endswith('/kernel')
  }
  assert set(kernels.values()) == {jax.numpy.dtype('bfloat16')}
  out = jax.eval_shape(function, *arguments)
  assert out.shape == arguments[1].shape and out.dtype == 'float32'
  operations = report.count_flops(config, 'sample')
  # Guidance has two clips, training has a batch.
  trained = report.count_flops(config, 'train')['forward']
  assert operations['recompute'] == {} and operations['model'] == {
    name: 2 / config.batch_size * n for name, n in trained.items()
  }


@pytest.mark.parametrize(
  'mode, mesh, message',
  [
    (
      'test',
      dict(data=1, sp=1),
      "--mode is 'test'; expected one of train, sam",
    ),
    ('sample', dict(data=1, sp=5), 'sp 5 does not divide the 48 heads'),
  ],
)
def test_modes(mode, mesh, message):
  with pytest.raises(ValueError, match=message):
    plan.prepare(
      ttt_video.get_config('3s'), topology.parse('v5p:8x8x4'), mesh, mode
    )


def test_a_plan_that_does_not_fit_names_the_largest_buffers(
  monkeypatch, capsys
):
  folder = pathlib.Path(__file__).parent / 'planner/data'
  done = compiled.Compiled(
    text=(folder / 'liveness.hlo').read_text(),
    arguments=0,
    results=0,
    temporaries=0,
    peak=2**30,
    host=0,
    trace_seconds=0,
    compile_seconds=0,
  )
  monkeypatch.setattr(plan, 'plan', lambda *_: ({}, done))
  for flag in ('_BUDGET', '_CACHE'):
    monkeypatch.setattr(plan, flag, types.SimpleNamespace(value=None))
  config, v5e = ttt_video.get_config('63s'), topology.parse('v5e:16x16')
  config.mesh = dict(data=64, sp=4)
  buffers = plan._largest_buffers_elsewhere(config, 'train', v5e)
  assert buffers[0] == 'peak 1.00 GiB on v5p:8x8x4'
  assert buffers[1].endswith('f32[32,128], backward layers/mlp/up/dot_general')
  found = plan._print_misfit(config, 'train', v5e, 'too large', buffers)
  assert found['dominates'] == buffers
  out = capsys.readouterr().out
  assert 'does not fit v5e:16x16: too large\nlargest buffers:\n' in out
  assert out.count('f32[32,128]') == 1 and '--config.model.remat=offload' in out


def test_free_memory_is_offered_to_attention():
  def change(chips, sp, **model):
    config, topology_ = ttt_video.get_config('63s'), topology.parse(chips)
    config.mesh = dict(data=256 // sp, sp=sp)
    config.batch_size = 64
    config.model.update(model)
    return advice.faster(config, 'train', topology_, 40 * 2**30)

  # Of a clip over four chips: 21 windows, 42 layers, texts of 480 tokens.
  kept = 21 * (13 * 1350 + 480) * 3072 * 42 * 2 / 4 / 2**30
  text = change('v5p:8x8x4', 4)
  assert text.startswith('--config.model.remat=attention: ')
  assert f'{kept:.1f} GiB of 45.5 that are free' in text
  assert '=offload_attention: ' in change('v6e:16x16', 4)
  assert change('v5p:8x8x4', 4, remat='attention') is None
  assert change('gpu:h100x8', 4) is None


@pytest.mark.parametrize('mixer', mixers.MIXERS)
def test_a_mixer_without_a_kernel_plans_its_best_implementation(mixer):
  config = quickstart.get_config(f'3s,{mixer}')
  plan.prepare(config, topology.parse('v5e:1x1'), dict(data=1, sp=1))
  has_kernel = 'pallas_tpu' in mixers.MIXERS[mixer].implementations
  chosen = config.model.get('implementation')
  assert chosen == ('pallas_tpu' if has_kernel else None)
