"""Layers of the mixers against their equations, written out in NumPy.

In float64, with parameters away from the values at which they do nothing.
"""

import functools
import zlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.compare import relative_error
from tests.models import mixer_layers_reference as reference
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import dit
from ttt_jax.models.dit import block
from ttt_jax.models.dit import frame_deltanet
from ttt_jax.models.dit import gated_deltanet
from ttt_jax.models.dit import mamba2
from ttt_jax.models.dit import mixers

# Two texts of 4 and five frames of 3 x 2 tokens: two chunks of three frames
# and two tokens of a third.
ORDER = token_order.TokenOrder(2, 2, 3, 2, 4)
T, M, HEADS, WINDOW = ORDER.length, 96, 6, 9
POSITIONS = dict(positions=ORDER.ttt_positions)
CHUNKS = dict(heads=2, attention_heads=HEADS, chunk=18) | POSITIONS
# Case: mixer and preset, fields of the layer, the reference and its options.
CASES = {
  'gated_deltanet': (
    ('gated_deltanet', 'matched'),
    dict(num_heads=4, key_heads=2),
    functools.partial(reference.gated_deltanet, heads=4, key_heads=2),
  ),
  'mamba2': (
    ('mamba2', 'matched'),
    dict(groups=2),
    functools.partial(reference.mamba2, heads=8, groups=2),
  ),
  'frame_deltanet': (
    ('frame_deltanet', 'matched'),
    {},
    functools.partial(reference.frame_deltanet, heads=3, order=ORDER),
  ),
  **{
    f'large_chunk_ttt {preset}': (
      ('large_chunk_ttt', preset),
      {},
      functools.partial(reference.large_chunk_ttt, **CHUNKS, **options),
    )
    for preset, options in dict(
      matched={},
      state=dict(complete=True),
      last=dict(last=True),
      muon=dict(muon=True),
    ).items()
  },
  'sliding_window': (
    ('sliding_window', 'matched'),
    {},
    functools.partial(
      reference.attention, heads=HEADS, window=WINDOW, **POSITIONS
    ),
  ),
  'full': (
    ('full', 'matched'),
    {},
    functools.partial(reference.attention, heads=HEADS, **POSITIONS),
  ),
}


def config(mixer, preset='matched', **fields):
  sizes = dict(model_dim=M, num_heads=HEADS, num_layers=1, window_size=WINDOW)
  return dit.DiTConfig(mixer=mixer, mixer_preset=preset, **(sizes | fields))


def draw(shapes):
  """Draws parameters by path: memories of some ten tokens, unequal scales."""
  rng = np.random.default_rng(0)
  ranges = dict(a_log=(-1, 1), dt_bias=(-4, -1))
  ranges |= dict.fromkeys(['norm', 'scale', 'skip'], (0.5, 1.5))

  def leaf(path, shape):
    if path[-1] in ranges:
      return rng.uniform(*ranges[path[-1]], shape)
    x = rng.normal(0, 0.5 if 'conv' in path[-1] else 0.1, shape)
    # Step sizes of some percent.
    return x + 3.5 if path == ('lr', 'bias') else x

  flat = flax.traverse_util.flatten_dict(shapes)
  return {path: leaf(path, x.shape) for path, x in flat.items()}


def nested(flat):
  """Returns the parameters among arguments, without the tokens."""
  return flax.traverse_util.unflatten_dict(
    {path: x for path, x in flat.items() if path}
  )


@functools.cache
def results(case):
  """Runs a layer once.

  Returns:
    Arguments by path (the tokens' is empty), the layer's result, weights of a
    sum of it, and the gradients of this sum by path.
  """
  (mixer, preset), fields, _ = CASES[case]
  with jax.enable_x64(True):
    model = config(mixer, preset, dtype='float64')
    layer = mixers.MIXERS[mixer].layer(model, ORDER, sharding.ShardingPlan())
    layer = layer.clone(**fields)
    rotary = tuple(
      table[:T] for table in block.make_context(model, ORDER, None).scan_rotary
    )
    x, weights = np.random.default_rng(1).normal(size=(2, 2, T, M))
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, rotary))
    arguments = draw(shapes['params']) | {(): x}

    @jax.jit
    def run(arguments):
      def apply(arguments):
        y, _ = layer.apply({'params': nested(arguments)}, arguments[()], rotary)
        return jnp.vdot(y, weights), y

      return jax.grad(apply, has_aux=True)(arguments)

    gradients, y = jax.device_get(run(arguments))
  return arguments, y, weights, gradients


def by_reference(case, arguments):
  """Returns what a layer's equations give for the arguments of `results`."""
  _, _, layer = CASES[case]
  params = nested(arguments)
  return np.stack([layer(params, x) for x in arguments[()]])


@pytest.mark.parametrize('case', CASES)
def test_values(case):
  arguments, y, _, _ = results(case)
  assert relative_error(y, by_reference(case, arguments)) < 1e-10


@pytest.mark.parametrize('case', CASES)
def test_gradients(case):
  """Against differences: of each argument, in one direction at random."""
  arguments, _, weights, gradients = results(case)
  for path, value in arguments.items():
    name = '/'.join(path)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    step = 1e-4 * rng.normal(size=value.shape) / np.sqrt(value.size)
    ahead, behind = (
      np.vdot(by_reference(case, arguments | {path: x}), weights)
      for x in (value + step, value - step)
    )
    error = np.vdot(gradients[path], step) - (ahead - behind) / 2
    scale = np.linalg.norm(gradients[path]) * np.linalg.norm(step)
    assert abs(error) < 1e-6 * scale, name


def distance(sample, least, most):
  """Returns how far a sample's distribution is from a uniform one."""
  x = (np.sort(np.ravel(sample)) - least) / (most - least)
  return np.abs(x - (np.arange(x.size) + 0.5) / x.size).max()


MANY = 4096
# Layers of as many heads, and the least rate of decay.
FRESH = {
  'gated_deltanet': (
    gated_deltanet.GatedDeltaNetLayer(MANY, 1, 1, 1, jnp.float32),
    0,
  ),
  'mamba2': (mamba2.Mamba2Layer(MANY, 1, 1, jnp.float32), 1),
  'frame_deltanet': (
    frame_deltanet.FrameDeltaNetLayer(MANY, 1, ORDER, jnp.float32),
    1,
  ),
}


@pytest.mark.parametrize('name', FRESH)
def test_initial_rates(name):
  """A is uniform up to 16, step sizes log-uniform from 0.001 to 0.1."""
  layer, least = FRESH[name]
  x = jnp.zeros((1, T, MANY))

  @jax.jit  # Draws nothing else.
  def draw_rates():
    params = layer.init(jax.random.key(0), x)['params']
    return {
      name: value
      for name, value in params.items()
      if name in ('a_log', 'dt_bias', 'skip', 'norm', 'v_conv')
    }

  params = draw_rates()
  assert distance(np.exp(params['a_log']), least, 16) < 0.03
  steps = np.log1p(np.exp(params['dt_bias']))
  assert distance(np.log10(steps), -3, -1) < 0.03
  if 'v_conv' in params:
    assert distance(params['v_conv'], -0.5, 0.5) < 0.03
  assert (params['norm'] == 1).all()
  assert (params.get('skip', np.ones(1)) == 1).all()


def test_initial_gates():
  model = config('sliding_window')
  context = block.make_context(model, ORDER, None)
  module = block.MixerBlock(model, ORDER)
  x = jnp.zeros((1, len(context.scan_rotary[0]), M))

  @jax.jit
  def draw_gates():
    gates = module.init(jax.random.key(0), x, context)['params']['gates']
    return {name: y for name, y in gates.items() if name != model.mixer}

  gates = draw_gates()
  assert len(gates) == 4  # Two directions of text and video.
  for gate in gates.values():
    np.testing.assert_array_equal(gate, np.full(M, 0.1, np.float32))
