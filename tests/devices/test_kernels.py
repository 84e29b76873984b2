"""Every implementation of the ops with its heads over eight devices."""

import functools

import jax
import numpy as np
import pytest

from pallas_kernels import window_attention
from pallas_kernels.specs import Spec
from pallas_kernels.types import Norm
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


def test_attention_with_heads_over_devices():
  """Every device has q, k and v of its own heads, as after an all-to-all."""
  devices = jax.device_count()
  rng = np.random.default_rng(0)
  qkv = rng.normal(size=(1, 72, devices * 3 * 2 * 64)).astype(np.float32)
  norms = rng.normal(size=(4, 64)).astype(np.float32)
  angle = rng.normal(size=(40, 32)).repeat(2, axis=1)
  table = [f(angle).astype(np.float32) for f in (np.cos, np.sin)]

  def run(implementation, qkv, norms):
    def attend(qkv, norms):
      return window_attention(
        qkv,
        Norm(*norms[:2]),
        Norm(*norms[2:]),
        *table,
        heads=2,
        windows=2,
        stride=32,
        epsilon=1e-6,
        implementation=implementation,
      )

    out, pull = jax.vjp(attend, qkv, norms)
    d_qkv, d_norms = pull(jax.numpy.cos(out))
    return out, d_qkv, d_norms[None]

  want = [
    jax.jit(functools.partial(run, 'reference'))(part, norms)
    for part in np.split(qkv, devices, axis=2)
  ]
  want = [
    np.concatenate(parts, axis=axis)
    for parts, axis in zip(zip(*want), (2, 2, 0))
  ]
  p = jax.sharding.PartitionSpec
  heads = p(None, None, 'heads')
  sharded = jax.shard_map(
    functools.partial(run, 'pallas_tpu'),
    mesh=jax.sharding.Mesh(np.array(jax.devices()), ('heads',)),
    in_specs=(heads, p()),
    out_specs=(heads, heads, p('heads')),
    check_vma=False,
  )
  with interpreted('pallas_tpu'):
    got = jax.jit(sharded)(qkv, norms)
  for g, w in zip(got, want):
    assert compare.relative_error(g, w) < 2e-5
