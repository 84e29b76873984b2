"""The GPU kernels, interpreted on CPU, against the definition.

The sequences consist of several spans of several groups, and the last
mini-batch is not full.
"""

import functools

import jax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.gpu import gelu
from pallas_kernels.gpu import tiling
from pallas_kernels.specs import Spec
from pallas_kernels.tools import compile_gpu
from tests.helpers.compare import relative_error
from tests.kernels.ops import OPS

SMALL = Spec(batch=2, heads=2, tokens=85, head_dim=32, hidden=64, mini_batch=16)
PAPER = Spec(batch=1, heads=1, tokens=200, head_dim=64, hidden=256)
every_op = pytest.mark.parametrize('op', OPS, ids=lambda op: op.name)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
  """Groups of 2 mini-batches, spans of 1 or 2 groups; no kernel compiled."""
  monkeypatch.setattr(tiling, '_LEAST_GROUP', 2)
  monkeypatch.setattr(tiling, '_REPLAY_BYTES', 3e5)
  with pltpu.force_tpu_interpret_mode(True):
    yield


@functools.cache
def _function(op, name, gradients):
  """Returns the jitted call, or gradients of a loss on all its results."""
  call = functools.partial(op.call, implementation=name)

  def loss(arguments, mini_batch):
    out, state = call(**arguments, mini_batch=mini_batch)
    total = jnp.sum(jnp.sin(out.astype(jnp.float32)))
    for n, array in enumerate(state):
      total += jnp.sum(jnp.cos(array * (n + 1)))
    return total, (out, state)

  def run(arguments, mini_batch):
    if gradients:
      return jax.grad(loss, has_aux=True)(arguments, mini_batch)
    return call(**arguments, mini_batch=mini_batch)

  return jax.jit(run, static_argnums=1)


def _arguments(op, spec, dtype=jnp.float32):
  """Returns arguments with large steps and one state per batch entry."""
  arguments = op.arguments(spec, deviation=0.1)
  arguments['eta'] = arguments['eta'] * 100
  ramp = jnp.arange(1.0, 1 + spec.batch)
  for name in op.states:
    array = arguments[name]
    arguments[name] = array * ramp.reshape(-1, *(1,) * array.ndim)
  return {n: x.astype(dtype) if n in 'qkv' else x for n, x in arguments.items()}


@every_op
@pytest.mark.parametrize(
  'spec, dtype, tolerance',
  [
    pytest.param(SMALL, jnp.float32, 2e-6, id='float32'),
    pytest.param(PAPER, jnp.bfloat16, 2e-2, id='paper-bfloat16'),
  ],
)
def test_values_states_and_gradients(op, spec, dtype, tolerance):
  arguments = _arguments(op, spec, dtype)
  got = _function(op, 'pallas_gpu', True)(arguments, spec.mini_batch)
  wide = {n: x.astype(jnp.float32) for n, x in arguments.items()}
  want = _function(op, 'reference', True)(wide, spec.mini_batch)
  for path, x in jax.tree_util.tree_leaves_with_path(got):
    y = dict(jax.tree_util.tree_leaves_with_path(want))[path]
    assert relative_error(x, y) < tolerance, jax.tree_util.keystr(path)
  gradients, (out, state) = got
  assert out.dtype == dtype
  assert all(x.dtype == jnp.float32 for x in state)
  assert all(gradients[n].dtype == x.dtype for n, x in arguments.items())


@every_op
def test_large_tiles(op):
  """The largest head dim; a mini-batch longer than the sequence."""
  spec = Spec(1, 1, 20, 128, 64, mini_batch=32)
  arguments = _arguments(op, spec)
  out, state = _function(op, 'pallas_gpu', False)(arguments, 32)
  want, last = _function(op, 'reference', False)(arguments, 32)
  assert relative_error(out, want) < 2e-6
  for x, y in zip(state, last):
    assert relative_error(x, y) < 2e-6


REFUSED = {
  'float64': (dict(dtype=jnp.float64), 'q has dtype float64'),
  'head dim': (dict(head_dim=48), r'head dim D=48.*\(32, 64, 128\)'),
  'small mini-batch': (dict(mini_batch=8), 'mini_batch=8: .*16, 32'),
  'odd mini-batch': (dict(mini_batch=48), 'mini_batch=48: .*16, 32'),
  'hidden': (dict(hidden=96), 'K=96 hidden units: .*power of two'),
  'hidden at 128': (
    dict(head_dim=128, hidden=512),
    'K D = 65536 .* memory for 16384',
  ),
  'hidden in float32': (
    dict(hidden=256, mini_batch=64),
    'K mini_batch = 16384 with float32',
  ),
  'tile': (
    dict(head_dim=128, mini_batch=256),
    'D=128, mini_batch=256 with float',
  ),
}
CASES = [
  pytest.param(op, *case, id=f'{op.name}-{name}')
  for op in OPS
  for name, case in REFUSED.items()
  if not name.startswith('hidden') or 'w1' in op.states
  if name != 'tile' or 'w' in op.states
]


@pytest.mark.parametrize('op, change, message', CASES)
def test_refuses_in_one_line(op, change, message):
  sizes = dict(head_dim=32, hidden=64, mini_batch=16)
  dtype = change.get('dtype', jnp.float32)
  sizes.update((n, x) for n, x in change.items() if n != 'dtype')
  with jax.enable_x64(True):
    shapes = op.specs.shapes(Spec(1, 1, 64, **sizes), dtype)
    call = functools.partial(
      _function(op, 'pallas_gpu', False), mini_batch=sizes['mini_batch']
    )
    with pytest.raises(NotImplementedError, match=message) as error:
      jax.eval_shape(lambda a: call(a), shapes)
  assert '\n' not in str(error.value)


def test_gelu_equals_the_definition():
  with jax.enable_x64(True):
    x = jnp.concatenate([jnp.linspace(-12, 12, 401), jnp.array([-1e9, 1e9])])
    function = functools.partial(jax.nn.gelu, approximate=True)
    want = [function(x)]
    for _ in range(2):
      function = jax.grad(lambda x, f=function: f(x).sum())
      want.append(function(x))
    np.testing.assert_allclose(gelu.gelu(x), want[0], atol=1e-11)
    for got in (gelu.gelu_slope(x), gelu.gelu_slope_curvature(x)):
      for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, atol=1e-11)


def test_tiling_keeps_the_memory_budgets(monkeypatch):
  """63 s of the paper's model with 12 of its 48 heads: under 1.5 GB kept."""
  monkeypatch.undo()
  state = 4 * (2 * 64 * 256 + 256 + 64)
  for heads in (12, 48):
    cut = tiling.make_tiling(heads, 352008, 64, state, state)
    assert cut.group * cut.groups >= 5501
    assert cut.span * cut.spans >= cut.groups
    assert heads * cut.groups * state < 1.3e9
    assert heads * cut.span * cut.group * state < 1.6e9
  short = tiling.make_tiling(4, 320, 64, state, state)
  assert (short.group, short.groups, short.span) == (5, 1, 1)


def test_compiling_says_what_is_missing(monkeypatch, capsys):
  monkeypatch.setattr(compile_gpu, 'missing', lambda: 'no plugin')
  monkeypatch.setattr('sys.argv', ['compile_gpu'])
  assert compile_gpu.main() == compile_gpu.MISSING
  assert 'cannot compile for an H100 here: no plugin' in capsys.readouterr().err
