"""Every implementation of the ops with its heads over eight devices."""

import functools

import jax
import numpy as np
import pytest

from pallas_kernels.specs import Spec
from tests.helpers import compare
from tests.kernels.ops import interpreted
from tests.kernels.ops import OPS

SPEC = Spec(
  batch=1, heads=16, tokens=37, head_dim=32, hidden=128, mini_batch=16
)


def _run(op, arguments, implementation):
  """Returns output, state and gradients."""
  out, pull, state = jax.vjp(
    lambda a: op.call(
      **a, mini_batch=SPEC.mini_batch, implementation=implementation
    ),
    arguments,
    has_aux=True,
  )
  return out, state, pull(jax.numpy.cos(out))[0]


@functools.cache
def _arguments_and_results(op):
  """Returns arguments and what the definition returns, as NumPy arrays."""
  arguments = op.arguments(SPEC)
  arguments['eta'] = arguments['eta'] * 100
  want = jax.jit(lambda a: _run(op, a, 'reference'))(arguments)
  return jax.tree.map(np.asarray, (arguments, want))


@pytest.mark.parametrize(
  'op, name',
  [
    pytest.param(
      op,
      name,
      id=f'{op.name}-{name}',
      # The kernel of `ttt_linear` is called in the same way.
      marks=[pytest.mark.slow] * ((op.name, name) == ('ttt_mlp', 'pallas_tpu')),
    )
    for op in OPS
    for name in op.api.IMPLEMENTATIONS
    if name != 'reference'
  ],
)
def test_heads_over_devices(op, name):
  """Outputs, states and gradients of shards are those of the definition."""
  arguments, want = _arguments_and_results(op)
  p = jax.sharding.PartitionSpec
  specs = {
    n: p(None, 'heads') if n in ('q', 'k', 'v', 'eta') else p('heads')
    for n in arguments
  }
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('heads',))

  sharded = jax.shard_map(
    lambda a: _run(op, a, name),
    mesh=mesh,
    in_specs=(specs,),
    out_specs=(p(None, 'heads'), p(None, 'heads'), specs),
    check_vma=False,
  )
  with interpreted(name):
    got = jax.jit(sharded)(arguments)
  errors = compare.relative_errors(got, want)
  assert max(errors.values()) < 2e-5, errors
