"""What the kernels of softmax attention cost, by the compiler's schedule.

    python -m launch.planner.attention [--chips=v5e,v5p,v6e] [--check | --write]

XLA estimates the cycles of all that it compiles but of kernels. This compiles
attention within one window of 480 x 720 pixels (splash, see
`ttt_jax.models.softmax`), forward and backward, for one chip of each kind, and
counts the bundles that its schedule issues, about cycles, for each head. Waits
for memory are not among them. `--check` compares with
launch/attention_budget.json and fails where a count has grown by more than 3 %;
`--write` replaces it.
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

from launch import topology as topology_lib
from pallas_kernels.tools import schedule
from ttt_jax.models import softmax
from ttt_jax.runtime import cli

BUDGET = pathlib.Path(__file__).parent / 'attention_budget.json'
# Text, a shared frame and twelve more of 480 x 720 pixels.
WINDOW, HEAD_DIM = 18_030, 64
# Heads of a chip in the table of plans: more need more vector memory.
_HEADS = {'v5e': 3, 'v5p': 12, 'v6e': 6}
_SLICES = {'v5e': 'v5e:2x2', 'v5p': 'v5p:2x2x1', 'v6e': 'v6e:2x2'}
_GROWTH = 1.03


def read(chip: str) -> dict[str, float]:
  """'splash_forward' and 'splash_backward' -> cycles of a head of a window.

  Args:
    chip: 'v5p' ...; one that the budget does not know has none.
  """
  return json.loads(BUDGET.read_text()).get(chip, {})


def count(chip: str, folder: pathlib.Path) -> dict[str, int]:
  """Compiles for a chip; returns what `read` does.

  Args:
    chip: of the three in the budget.
    folder: empty, where the compiler leaves its schedules.
  """
  device = topology_lib.parse(_SLICES[chip]).devices()[0]
  where = jax.sharding.SingleDeviceSharding(device)
  tokens = softmax.padded(WINDOW, 'splash')
  x = jax.ShapeDtypeStruct(
    (1, tokens, _HEADS[chip] * HEAD_DIM), jnp.bfloat16, sharding=where
  )

  def both(q, k, v, d_out):
    attend = lambda *qkv: softmax.attend(*qkv, HEAD_DIM, WINDOW, 'splash')
    out, pull = jax.vjp(attend, q, k, v)
    return out, pull(d_out)

  jax.jit(both).lower(x, x, x, x).compile()
  cycles = dict(splash_forward=0, splash_backward=0)
  for kernel in schedule.read_kernels(folder, 'splash'):
    cycles[direction(kernel.name)] += kernel.cycles // _HEADS[chip]
  return cycles


def direction(kernel: str) -> str:
  """The key of `read` for a kernel of splash."""
  return 'splash_forward' if '_fwd_' in kernel else 'splash_backward'


def complaints(
  found: Mapping[str, Mapping[str, int]],
  budget: Mapping[str, Mapping[str, int]],
) -> list[str]:
  """What has grown beyond the budget, a line each."""
  lines = []
  for chip, counts in found.items():
    for key, cycles in counts.items():
      allowed = budget.get(chip, {}).get(key, 0)
      if cycles > allowed * _GROWTH:
        lines.append(f'{chip}: {key} is {cycles:,}, the budget {allowed:,}')
  return lines


def define_flags() -> None:
  """The flags of this command."""
  flags.DEFINE_list('chips', list(_SLICES), 'Kinds of chips.')
  flags.DEFINE_bool('check', False, 'Compare with the budget.')
  flags.DEFINE_bool('write', False, 'Replace the budget.')


def main(argv: Sequence[str]) -> int:
  """Entry point."""
  del argv
  options = flags.FLAGS
  jax.config.update('jax_platforms', 'cpu')
  budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
  for chip in options.chips:
    if chip not in _SLICES:
      raise ValueError(f'--chips={chip}: must be of {", ".join(_SLICES)}')
  found = {}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    # Read when libtpu loads.
    os.environ['LIBTPU_INIT_ARGS'] = schedule.dump_flags(folder)
    for chip in options.chips:
      for path in folder.iterdir():
        path.unlink()
      found[chip] = count(chip, folder)
      counts = ', '.join(f'{k} {v:,}' for k, v in found[chip].items())
      print(f'{chip}: {counts}', flush=True)
  if options.write:
    BUDGET.write_text(json.dumps(budget | found, indent=1) + '\n')
  elif options.check:
    lines = complaints(found, budget)
    print('\n'.join(lines) or 'within the budget')
    return 1 if lines else 0
  return 0


if __name__ == '__main__':
  define_flags()
  cli.run(main)
