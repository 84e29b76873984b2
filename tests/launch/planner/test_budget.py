"""launch/planner/budget.py: work of the kernels, and the cycles of a step."""

import dataclasses
import json
import pathlib

import pytest

from launch.planner import budget
from launch.planner import hlo
from pallas_kernels.tools import compile_tpu
from tests.helpers import configs
from ttt_jax import geometry
from ttt_jax.models import dit

_LOOPS = pathlib.Path(__file__).parent / 'data/loops.hlo'
ttt_video = configs.load('ttt_video')


def test_the_work_of_a_chip():
  config = ttt_video.get_config('63s')
  work = budget.kernel_work(
    geometry.Geometry.from_config(config),
    dit.DiTConfig(**config.model),
    dict(data=32, sp=8),
    clips=64,
  )
  assert (work.clips, work.heads, work.windows) == (2, 6, 21)
  assert work.window == 18432
  assert work.mini_batches == 5495


@pytest.mark.parametrize(
  'mixer, keys', [('sliding_window', 8192), ('full', 175_000), ('ttt_mlp', 0)]
)
def test_attention_as_a_mixer(mixer, keys):
  config = ttt_video.get_config(f'63s,{mixer}')
  sizes = geometry.Geometry.from_config(config)
  work = budget.kernel_work(
    sizes, dit.DiTConfig(**config.model), dict(data=64, sp=4), clips=64
  )
  pairs = sizes.sequence_length * keys
  assert pairs <= work.scan_pairs <= 1.5 * pairs
  kernels = dict(splash_forward=100.0, splash_backward=250.0)
  cycles = lambda name: budget.instruction_cycles(
    hlo.Instruction(
      name=f'splash_mqa_{name}.3',
      opcode='custom-call',
      type='f32[]',
      operands='custom_call_target="tpu_custom_call",'
      ' op_name="jit(step)/mixer_scan/x"',
      root=False,
    ),
    work,
    kernels,
  )
  heads = 12 * work.scan_pairs / 18432**2
  assert cycles('fwd_no_residuals') == pytest.approx(100 * heads)
  # The kernels for all gradients of a window compute five products.
  assert cycles('dkv') == pytest.approx(200 * heads)
  assert cycles('dq') == pytest.approx(150 * heads)


def test_budgets_of_kernels(tmp_path):
  path = tmp_path / 'budget.json'
  row = dict(chip='v5p', op='call', call='paper_63s', forward=10, backward=0)
  path.write_text(json.dumps([row, {**row, 'call': 'one_chip', 'forward': 9}]))
  work = budget.KernelWork(
    clips=2, heads=2, head_dim=64, mini_batches=1, windows=1, window=128
  )
  program = hlo.Program(_LOOPS.read_text())
  kernels = {}
  cycles_of = lambda instruction: budget.instruction_cycles(
    instruction, work, kernels
  )
  cycles, unknown = budget.cycles_by_part(program, cycles_of)
  assert unknown == ['call'] and sum(cycles.values()) == 1500
  assert cycles['dense layers'] == 1500
  kernels = budget.read(path, 'v5p')
  assert kernels['call_forward'] == 10 and kernels['call_backward'] == 0
  assert 0 < kernels['splash_forward'] < kernels['splash_backward']
  kernels = dict(call=kernels['call_forward'])
  cycles, unknown = budget.cycles_by_part(program, cycles_of)
  assert not unknown and sum(cycles.values()) == 1500 + 3 * 4 * 10
  with pytest.raises(ValueError, match='no budget for v6e; it has v5p'):
    budget.read(path, 'v6e')
  path.write_text('{"v5p": {}}')
  with pytest.raises(ValueError, match='is not a budget of kernels'):
    budget.read(path, 'v5p')


@pytest.mark.parametrize(
  'name, per_call',
  [
    # Splash attention has one window of all clips in a call.
    ('splash_mqa_dkv_segmented_no_residuals.7', 1),
    ('window_attention_backward.7', 21),
  ],
)
def test_attention_costs_the_square_of_a_window(name, per_call):
  call = 'custom-call(), custom_call_target="tpu_custom_call"'
  instruction = hlo.Instruction(
    name=name, opcode='custom-call', type='bf16[8]', operands=call, root=False
  )
  work = budget.KernelWork(
    clips=2, heads=3, head_dim=64, mini_batches=1, windows=21, window=18432
  )
  kernels = dict(splash_backward=10, window_attention_backward=10)
  cycles = lambda **sizes: budget.instruction_cycles(
    instruction, dataclasses.replace(work, **sizes), kernels
  )
  assert cycles() == 60 * per_call
  assert cycles(window=9216) == 15 * per_call
  assert budget.part(instruction) == 'attention'


def test_splash_attention_of_other_heads_is_not_counted():
  instruction = hlo.Instruction(
    name='splash_mqa_fwd.7',
    opcode='custom-call',
    type='bf16[8]',
    operands='custom-call(), custom_call_target="tpu_custom_call"',
    root=False,
  )
  work = budget.KernelWork(
    clips=2, heads=3, head_dim=128, mini_batches=1, windows=21, window=18432
  )
  kernels = dict(splash_forward=10)
  assert budget.instruction_cycles(instruction, work, kernels) is None


def test_the_budget_of_the_kernels_contains_their_names():
  cycles = budget.read(compile_tpu.BUDGET, 'v5p')
  assert 0 < cycles['ttt_mlp_forward'] < cycles['ttt_mlp_backward']
