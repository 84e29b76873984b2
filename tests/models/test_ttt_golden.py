"""The TTT layer against the paper's code: outputs and gradients."""

import functools
import re

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests.helpers import reference_order
from ttt_jax import token_order
from ttt_jax.convert import rules as rules_lib
from ttt_jax.models.dit import rope
from ttt_jax.models.dit import ttt

# Token rows and columns of a frame, text tokens, scenes, mini-batch.
CASES = {
  'single': ((2, 3), 18, 1, 16),
  'multi': ((2, 3), 6, 3, 16),
  'aligned': ((2, 2), 4, 3, 4),
}

pytestmark = pytest.mark.optimized


def rules(heads, m, d, hidden):
  dense = lambda name: [
    rules_lib.Rule(f'ttt.w{name}.weight', f'{name}/kernel', (1, 0)),
    rules_lib.Rule(f'ttt.w{name}.bias', f'{name}/bias'),
  ]
  return [
    *(rule for name in 'qkvo' for rule in dense(name)),
    rules_lib.Rule('ttt.post_norm.weight', 'post_norm/scale'),
    rules_lib.Rule('ttt.post_norm.bias', 'post_norm/bias'),
    rules_lib.Rule('ttt.ttt_norm_weight', 'ln_scale'),
    rules_lib.Rule('ttt.ttt_norm_bias', 'ln_bias'),
    rules_lib.Rule(
      'ttt.learnable_ttt_lr_weight', 'lr/kernel', (2, 0, 1), view=(heads, 1, m)
    ),
    rules_lib.Rule(
      'ttt.learnable_ttt_lr_bias', 'lr/bias', (0, 1), view=(heads, 1)
    ),
    rules_lib.Rule('ttt.W1', 'w1'),
    rules_lib.Rule('ttt.b1', 'b1', (0, 1, 2), view=(heads, 1, hidden)),
    rules_lib.Rule('ttt.W2', 'w2'),
    rules_lib.Rule('ttt.b2', 'b2', (0, 1, 2), view=(heads, 1, d)),
  ]


class Case:
  """A layer, its inputs in scan order and the inverse permutation."""

  def __init__(self, golden, kind, scenes):
    self.arrays = np.load(golden(f'ttt_layer_{kind}.npz'))
    self.per_token = np.load(golden(f'ttt_layer_{kind}_pertoken.npz'))
    (rows, columns), text, segments, mini_batch = CASES[scenes]
    self.order = token_order.TokenOrder(segments, 12, rows, columns, text)
    self.layer = ttt.TTTLayer(
      inner=f'ttt_{kind}',
      num_heads=2,
      mini_batch=mini_batch,
      base_lr=0.1 if kind == 'mlp' else 1.0,
      dtype=jnp.float32,
    )
    read = reference_order.text_first(self.order)
    # From the order of the reference's arrays to scan order.
    self.take = np.argsort(read)[self.order.forward_order]
    self.back = np.argsort(self.take)
    self.x = self.arrays[f'{scenes}_x'][:, self.take]
    shapes = jax.eval_shape(self.init, jax.random.key(0))
    shapes = traverse_util.flatten_dict(shapes, sep='/')
    self.rules = rules(2, 64, 32, 128 if kind == 'mlp' else 32)
    self.params = rules_lib.import_params(
      self.rules,
      safetensors_numpy.load_file(golden(f'ttt_layer_{kind}.safetensors')),
      {path: leaf.shape for path, leaf in shapes.items()},
      'the layer',
    )

  def init(self, key):
    return self.layer.init(key, self.x, self.rotary())['params']

  def rotary(self):
    return rope.rotary_cos_sin(self.order.ttt_positions, 32)

  def apply(self, params, x):
    return self.layer.apply({'params': params}, x, self.rotary())[0][
      :, self.back
    ]


@functools.cache
def results(golden, kind, scenes):
  """Returns the case, its output and its gradients, None where unknown."""
  case = Case(golden, kind, scenes)
  if f'{scenes}_cotangent' not in case.arrays.files:
    return case, jax.jit(case.apply)(case.params, case.x), None
  cotangent = case.arrays[f'{scenes}_cotangent']

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
  def gradient(params, x):
    out = case.apply(params, x)
    return jnp.sum(out * cotangent), out

  grads, out = gradient(case.params, case.x)
  return case, out, grads


@pytest.mark.parametrize('kind', ['mlp', 'linear'])
@pytest.mark.parametrize('scenes', list(CASES))
def test_output(golden, kind, scenes):
  case, out, _ = results(golden, kind, scenes)
  source = case.per_token if scenes == 'multi' else case.arrays
  expected = source[f'{scenes}_out']
  assert np.abs(out - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('kind', ['mlp', 'linear'])
@pytest.mark.parametrize('scenes', ['single', 'multi'])
def test_gradients(golden, kind, scenes):
  case, _, (grads, grad_x) = results(golden, kind, scenes)
  source = case.per_token if scenes == 'multi' else case.arrays
  ours = rules_lib.export_params(case.rules, grads)
  ours['x'] = np.asarray(grad_x)[:, case.back]
  names = [
    m[1]
    for key in source.files
    if (m := re.fullmatch(f'{scenes}_grad_(.*)', key))
  ]
  assert len(names) >= 16
  for name in names:
    expected = source[f'{scenes}_grad_{name}']
    error = np.abs(ours[name] - expected).max()
    assert error < 2e-5 * np.abs(expected).max(), name
