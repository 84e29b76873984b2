"""launch/: topologies, meshes and the price of a step."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import pytest

from configs import quickstart
from configs import ttt_video
from launch import plan
from launch import topology
from launch.planner import budget
from launch.planner import compiled
from launch.planner import hlo
from launch.planner import program
from launch.planner import report
from pallas_kernels.tools import compile_tpu
from tests.launch.planner import test_hlo
from ttt_jax import geometry
from ttt_jax import sharding
from ttt_jax.checkpoints import train_state
from ttt_jax.models import dit


def test_topologies():
  slice_ = topology.parse('v5p:8x8x4')
  assert (slice_.chips, slice_.chip.name) == (256, 'v5p')
  assert topology.parse('v5e:16x16').chips == 256
  assert topology.parse('gpu:h100x8').chips == 8


@pytest.mark.parametrize(
  'name, larger',
  [
    ('v5e:16x16', 'v5p:8x8x4'),
    ('v5e:1x1', 'v5p:1x1x1'),
    ('v6e:3x2', 'v5p:3x2x1'),
  ],
)
def test_as_many_chips_with_more_memory(name, larger):
  assert topology.roomy(topology.parse(name)) == topology.parse(larger)
  assert topology.roomy(topology.parse('v5p:8x8x4')) is None
  assert topology.roomy(topology.parse('gpu:h100x8')) is None


@pytest.mark.parametrize(
  'name, message',
  [
    ('v9:2x2', "unknown chip 'v9'; legal are v5e, v5p, v6e"),
    ('v5p:8x8', 'has 3 sides, for example v5p:8x8x4'),
    ('v6e:2x0', 'has 2 sides, for example v6e:16x16'),
    ('h100:8', "unknown chip 'h100'; legal are v5e, v5p, v6e, gpu"),
    ('gpu:a1x8', "unknown GPU 'a1'; legal are h100"),
    ('gpu:h100x12', 'whole servers of 8, for example gpu:h100x8'),
  ],
)
def test_topologies_that_do_not_exist(name, message):
  with pytest.raises(ValueError, match=message):
    topology.parse(name)


@pytest.mark.parametrize(
  'mesh, message',
  [
    (dict(data=64, sp=5), 'needs 320 chips; v5p:8x8x4 has 256'),
    (dict(data=8, sp=32), 'sp 32 does not divide the 48 heads'),
    (dict(data=48, sp=4), 'data 48 does not divide the batch'),
  ],
)
def test_meshes_that_cannot_work(mesh, message):
  config = ttt_video.get_config('63s')
  with pytest.raises(ValueError, match=message):
    plan.prepare(config, topology.parse('v5p:8x8x4'), mesh)


def test_the_work_of_a_chip():
  config = ttt_video.get_config('63s')
  work = budget.load(
    geometry.Geometry.from_config(config),
    dit.DiTConfig(**config.model),
    dict(data=32, sp=8),
    clips=64,
  )
  assert work.window_heads == 6 * 2 and work.windows == 2 * 21
  assert work.window == 18432
  assert work.mini_batch_heads == 5495 * 6 * 2


def test_prices(tmp_path):
  path = tmp_path / 'budget.json'
  row = dict(chip='v5p', op='call', call='paper_63s', forward=10, backward=0)
  path.write_text(json.dumps([row, {**row, 'call': 'one_chip', 'forward': 9}]))
  work = budget.Load(4, 1, 128, 1, 64)
  program = hlo.Program(test_hlo._TEXT)
  prices = {}
  price = lambda one: budget.cycles_of(one, work, prices)
  cycles, unknown = budget.cycles_by_group(program, price)
  assert unknown == ['call'] and sum(cycles.values()) == 1500
  assert cycles['dense layers'] == 1500
  prices = budget.read(path, 'v5p')
  assert prices['call_forward'] == 10 and prices['call_backward'] == 0
  assert 0 < prices['splash_forward'] < prices['splash_backward']
  prices = dict(call=prices['call_forward'])
  cycles, unknown = budget.cycles_by_group(program, price)
  assert not unknown and sum(cycles.values()) == 1500 + 3 * 4 * 10
  with pytest.raises(ValueError, match='no budget for v6e; it has v5p'):
    budget.read(path, 'v6e')
  path.write_text('{"v5p": {}}')
  with pytest.raises(ValueError, match='is no budget of kernels'):
    budget.read(path, 'v5p')


def test_attention_costs_the_square_of_a_window():
  call = 'custom-call(), custom_call_target="tpu_custom_call"'
  name = 'splash_mqa_dkv_segmented_no_residuals.7'
  one = hlo.Instruction(name, 'custom-call', 'bf16[8]', call, False)
  work = budget.Load(1, 1, 18432, 6, 64)
  kernels = dict(splash_forward=1, splash_backward=10)
  price = lambda **sizes: budget.cycles_of(
    one, dataclasses.replace(work, **sizes), kernels
  )
  assert price() == 60
  assert price(window=9216) == 15
  assert price(head_dim=128) is None  # Not counted.
  assert budget.group(one) == 'attention'


def test_the_budget_of_the_kernels_has_their_names():
  prices = budget.read(compile_tpu.BUDGET, 'v5p')
  assert 0 < prices['ttt_mlp_forward'] < prices['ttt_mlp_backward']


def test_errors_of_the_command_are_one_line():
  out = subprocess.run(
    [
      sys.executable,
      '-m',
      'launch.plan',
      '--topology=v9:1x1',
      '--config=configs/ttt_video.py:3s',
    ],
    capture_output=True,
    text=True,
    check=False,
    cwd=pathlib.Path(__file__).resolve().parents[3],
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
  assert max(r.times for r in done.program.runs()) >= 3
  flops = found['flops']
  assert sum(flops['forward'].values()) < sum(flops['backward'].values())
  # Checkpoints of layers run all of the forward pass again, the inner loop's
  # kernel its own part once more.
  part = 'TTT inner loop'
  assert flops['again'] == flops['forward'] | {part: 2 * flops['forward'][part]}
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
  operations = report.operations(config, 'sample')
  # Two clips of guidance, where training has a batch.
  trained = report.operations(config, 'train')['forward']
  assert operations['again'] == {} and operations['model'] == {
    name: 2 / config.batch_size * n for name, n in trained.items()
  }


@pytest.mark.parametrize(
  'mode, mesh, message',
  [
    ('test', dict(data=1, sp=1), "--mode is 'test'; legal are train, sam"),
    ('sample', dict(data=1, sp=5), 'sp 5 does not divide the 48 heads'),
  ],
)
def test_modes(mode, mesh, message):
  with pytest.raises(ValueError, match=message):
    plan.prepare(
      ttt_video.get_config('3s'), topology.parse('v5p:8x8x4'), mesh, mode
    )
