"""Heads of the ops over 8 devices; prints the largest relative errors.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python -m tests.kernels.sharded
"""

import json

import jax
import numpy as np

from pallas_kernels.specs import Spec
from tests.kernels.ops import interpreted
from tests.kernels.ops import OPS
from tests.kernels.ops import relative_error

SPEC = Spec(
  batch=1, heads=16, tokens=53, head_dim=32, hidden=128, mini_batch=16
)


def error(op, name: str) -> float:
  """Returns the largest error of out, state and gradients."""
  arguments = op.arguments(SPEC)
  arguments['eta'] = arguments['eta'] * 100
  p = jax.sharding.PartitionSpec
  specs = {
    n: p(None, 'heads') if n in ('q', 'k', 'v', 'eta') else p('heads')
    for n in arguments
  }
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('heads',))

  def run(arguments, implementation):
    out, pull, state = jax.vjp(
      lambda a: op.call(
        **a, mini_batch=SPEC.mini_batch, implementation=implementation
      ),
      arguments,
      has_aux=True,
    )
    return out, state, pull(jax.numpy.cos(out))[0]

  want = jax.jit(lambda a: run(a, 'reference'))(arguments)
  sharded = jax.shard_map(
    lambda a: run(a, name),
    mesh=mesh,
    in_specs=(specs,),
    out_specs=(p(None, 'heads'), p(None, 'heads'), specs),
    check_vma=False,
  )
  with interpreted(name):
    got = jax.jit(sharded)(arguments)
  return max(
    relative_error(x, y)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want))
  )


if __name__ == '__main__':
  assert jax.device_count() == 8, jax.device_count()
  print(
    json.dumps(
      {
        f'{op.name} {name}': error(op, name)
        for op in OPS
        for name in op.api.IMPLEMENTATIONS
        if name != 'reference'
      }
    )
  )
