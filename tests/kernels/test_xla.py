"""The portable implementation: parts, groups, memory, derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.inner_loss import layer_norm
from pallas_kernels.inner_loss import token_loss
from pallas_kernels.specs import Spec
from pallas_kernels.specs import SPECS
from pallas_kernels.xla import cpu_cores
from pallas_kernels.xla import mini_batches
from pallas_kernels.xla.inner_loss_backward import layer_norm_backward
from pallas_kernels.xla.inner_loss_backward import loss_gradient
from pallas_kernels.xla.inner_loss_backward import loss_gradient_backward
from pallas_kernels.xla.mini_batches import choose_mini_batches
from tests.helpers.compare import relative_error
from tests.kernels.ops import OPS
from tests.kernels.ops import SMALL
from tests.kernels.ops import value_and_gradients

every_op = pytest.mark.parametrize('op', OPS, ids=lambda op: op.name)


def _pull(op, mini_batch):
  """Returns the jitted gradients of (arguments, cotangent of out)."""

  def out(arguments):
    return op.call(**arguments, mini_batch=mini_batch, implementation='xla')[0]

  return jax.jit(
    lambda arguments, cotangent: jax.vjp(out, arguments)[1](cotangent)
  )


@every_op
@pytest.mark.parametrize(
  'mini_batch, kept',
  [(4, 0), pytest.param(5, 2**20, marks=pytest.mark.slow)],
)
def test_uneven_parts_change_nothing(op, mini_batch, kept, monkeypatch):
  """Six rows in four parts, a last mini-batch that is not full, both caches.

  No other test has these mini-batches, so none shares what is compiled here.
  """
  monkeypatch.setattr(cpu_cores, '_cores', lambda: 2)
  monkeypatch.setattr(cpu_cores, '_MAX_PARTS', 4)
  monkeypatch.setattr(cpu_cores, '_MIN_WORK', 1)
  monkeypatch.setattr(mini_batches, 'KEPT_BYTES', kept)
  with jax.enable_x64(True):
    arguments = op.arguments(SMALL, jnp.float64)
    arguments['eta'] = arguments['eta'] * 100
    got, want = (
      value_and_gradients(op, arguments, mini_batch, implementation=name)
      for name in ('xla', 'reference')
    )
    for (path, x), y in zip(
      jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want)
    ):
      assert relative_error(x, y) < 1e-9, jax.tree_util.keystr(path)


def test_parts_divide_rows(monkeypatch):
  tree = {'a': jnp.arange(22).reshape(1, 11, 2), 'b': jnp.arange(11.0)[None]}
  parts = cpu_cores.split(tree, 8)
  assert [part['b'].shape[1] for part in parts] == [2, 2, 2, 1, 1, 1, 1, 1]
  np.testing.assert_array_equal(cpu_cores.join(parts)['a'], tree['a'])
  monkeypatch.setattr(cpu_cores, '_cores', lambda: 2)
  assert cpu_cores.num_core_splits(rows=6, work=10) == 1  # Too little work.
  assert cpu_cores.num_core_splits(rows=6, work=2**20) == 6
  monkeypatch.setattr(cpu_cores, '_cores', lambda: 1)
  assert cpu_cores.num_core_splits(rows=6, work=2**20) == 1  # Only one core.


def test_budget_decides_which_states_are_kept():
  few = choose_mini_batches(352008, 64, state_bytes=50_000)
  assert (few.groups, few.group) == (1, 5501)
  many = choose_mini_batches(352008, 64, state_bytes=1_500_000)
  assert many.groups + many.group < 2.5 * 5501**0.5
  assert many.groups * many.group >= 5501
  short = choose_mini_batches(10, 64, state_bytes=1_500_000)
  assert (short.size, short.groups, short.group) == (10, 1, 1)


def test_memory_of_the_backward_pass_at_63_seconds(monkeypatch):
  """A quarter of the paper's heads keep at most 1.5 GB of states."""
  # Fewer parts of the same rows: a program that compiles in less time.
  monkeypatch.setattr(cpu_cores, '_MAX_PARTS', 2)
  op = OPS[0]
  spec = dataclasses.replace(SPECS['paper_63s'], heads=12)
  arguments = op.specs.shapes(spec, jnp.float32)

  pull = _pull(op, spec.mini_batch)
  compiled = pull.lower(arguments, arguments['q']).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 1.5e9


@every_op
def test_narrow_tokens_are_never_widened_whole(op):
  """Widening the complete bfloat16 sequence in each step would be quadratic."""
  spec = Spec(1, 2, 704, 8, 16, mini_batch=8)
  arguments = op.arguments(spec, jnp.bfloat16)
  text = _pull(op, 8).lower(arguments, arguments['q']).compile().as_text()
  assert 'bf16[1,2,704,8]' in text
  assert 'f32[1,2,704,8]' not in text.replace('bf16[1,2,704,8]', '')


def test_derivatives_by_hand_are_those_of_autodiff():
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    z, k, v, scale, bias, u = jnp.asarray(rng.standard_normal((6, 2, 5, 8)))
    forward = loss_gradient(z, k, v, scale, bias)
    gradient = jax.grad(lambda *args: token_loss(*args).sum())
    g, pull = jax.vjp(gradient, z, k, v, scale, bias)
    assert relative_error(forward.g, g) < 1e-13
    d_z, d_scale, d_bias = loss_gradient_backward(forward, scale, u)
    for got, want in zip((d_z, d_bias, -d_bias, d_scale, d_bias), pull(u)):
      assert relative_error(got, want) < 1e-12
    _, pull = jax.vjp(layer_norm, z, scale, bias)
    for got, want in zip(layer_norm_backward(z, scale, u), pull(u)):
      assert relative_error(got, want) < 1e-12
