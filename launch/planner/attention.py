"""Cycles of splash attention, from the compiler's schedule.

    python -m launch.planner.attention [--chips=v5e,v5p] [--check | --write]

XLA estimates the cycles of everything that it compiles except kernels. This
command compiles splash attention (see `ttt_jax.models.softmax`) within one
window of 480 x 720 pixels, forward and backward, for one chip of each kind. It
serves the mixers that are attention, and windows whose heads have not 64
features; the project's own kernels for windows are counted by
`pallas_kernels.tools.compile_tpu`. The bundles that the schedule issues per
head are about the cycles without waits for memory. `--check` compares the
counts with launch/planner/attention_budget.json and fails if one has grown by
more than 3 %; `--write` replaces the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import tempfile

from absl import flags
import jax
import jax.numpy as jnp

from launch import commands
from launch import topology as topology_lib
from pallas_kernels.tools import libtpu
from pallas_kernels.tools import schedule
from ttt_jax.models import softmax
from ttt_jax.runtime import cli
from ttt_jax.runtime import files

BUDGET = pathlib.Path(__file__).parent / 'attention_budget.json'
# Text, a shared frame, and twelve more of 480 x 720 pixels.
WINDOW, HEAD_DIM = 18_030, 64
# Heads per chip in the table of plans: more heads need more vector memory.
_HEADS = {'v5e': 3, 'v5p': 12, 'v6e': 6, 'tpu7x': 12}
_GROWTH = 1.03


def read_budget(chip: str) -> dict[str, float]:
  """Returns the cycles of one head in one window.

  Args:
    chip: name of a chip, such as 'v5p'.

  Returns:
    Cycles by 'splash_forward' and 'splash_backward'; nothing for a chip that
    the budget does not contain.
  """
  return json.loads(BUDGET.read_text()).get(chip, {})


def count_cycles(chip: str, folder: pathlib.Path) -> dict[str, int]:
  """Compiles for a chip; returns the cycles of one head in one window.

  Args:
    chip: key of `_HEADS`.
    folder: empty folder to which the compiler writes its schedules.
  """
  device = topology_lib.parse(libtpu.SMALLEST_SLICES[chip]).devices()[0]
  tokens = softmax.padded(WINDOW, 'splash')
  x = jax.ShapeDtypeStruct(
    (1, tokens, _HEADS[chip] * HEAD_DIM),
    jnp.bfloat16,
    sharding=jax.sharding.SingleDeviceSharding(device),
  )

  def forward_and_backward(q, k, v, d_out):
    def attend(q, k, v):
      return softmax.attend(q, k, v, HEAD_DIM, WINDOW, 'splash')

    out, vjp = jax.vjp(attend, q, k, v)
    return out, vjp(d_out)

  jax.jit(forward_and_backward).lower(x, x, x, x).compile()
  cycles = dict(splash_forward=0, splash_backward=0)
  for kernel in schedule.read_kernels(folder, 'splash'):
    cycles[direction(kernel.name)] += kernel.cycles // _HEADS[chip]
  return cycles


def direction(kernel: str) -> str:
  """Returns the key of the budget for a splash kernel."""
  return 'splash_forward' if '_fwd_' in kernel else 'splash_backward'


def regressions(
  counts: Mapping[str, Mapping[str, int]],
  budget: Mapping[str, Mapping[str, int]],
) -> list[str]:
  """Returns the counts that exceed the budget, one line each."""
  lines = []
  for chip, cycles_by_direction in counts.items():
    for key, cycles in cycles_by_direction.items():
      allowed = budget.get(chip, {}).get(key, 0)
      if cycles > allowed * _GROWTH:
        lines.append(f'{chip}: {key} is {cycles:,}, the budget {allowed:,}')
  return lines


def define_flags() -> None:
  """Defines the flags of this command."""
  flags.DEFINE_list('chips', list(_HEADS), 'Kinds of TPUs.')
  commands.define_budget_flags()


def main(argv: Sequence[str]) -> int:
  """Counts the cycles on each chip, and compares or replaces the budget."""
  del argv
  options = flags.FLAGS
  jax.config.update('jax_platforms', 'cpu')
  budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
  for chip in options.chips:
    if chip not in _HEADS:
      raise ValueError(
        f'--chips={chip} is not valid; expected one of {", ".join(_HEADS)}'
      )
  counts = {}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    # libtpu reads it when it loads.
    os.environ['LIBTPU_INIT_ARGS'] = schedule.dump_flags(folder)
    for chip in options.chips:
      for path in folder.iterdir():
        path.unlink()
      counts[chip] = count_cycles(chip, folder)
      text = ', '.join(f'{k} {v:,}' for k, v in counts[chip].items())
      print(f'{chip}: {text}', flush=True)
  if options.write:
    files.write_json(budget | counts, BUDGET)
  elif options.check:
    lines = regressions(counts, budget)
    print('\n'.join(lines) or 'within the budget')
    return 1 if lines else 0
  return 0


if __name__ == '__main__':
  define_flags()
  cli.run(main)
