"""A tiny autoencoder with parameters at random, and ways to call it.

It compresses height, width and time by 2: few layers, quickly compiled. The
reference numbers are of a deeper one.
"""

import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.convert import vae as convert_vae
from ttt_jax.models.vae.causal3d import CausalVAEConfig

CONFIG = CausalVAEConfig(
  latent_channels=4,
  block_out_channels=(8, 16),
  layers_per_block=1,
  norm_num_groups=4,
  temporal_compression_ratio=2,
  scaling_factor=(0.5, 1.0, 2.0, 4.0),
  shift=(0.1, -0.2, 0.3, 1.0),
)


def parameters(config, spread=0.2):
  """Cheaper than compiling the initialisation."""
  rng = np.random.default_rng(0)
  flat = {
    path: jnp.asarray(
      spread * rng.normal(size=shape) + path.endswith('scale'), jnp.float32
    )
    for path, shape in convert_vae.FORMAT.parameter_shapes(config).items()
  }
  return traverse_util.unflatten_dict(flat, sep='/')


def clip(frames, height, width, seed=0):
  """[1, frames, height, width, 3] in [-1, 1]."""
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (1, frames, height, width, 3)).astype(np.float32)


def latents(frames, height, width, seed=0):
  """[1, frames, height, width, 4]."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(1, frames, height, width, 4)).astype(np.float32)


# Compiled without effort: half the time.
_OPTIONS = {'xla_backend_optimization_level': 0}


def run(vae, params, *args, method=None):
  """`vae.apply`, compiled as a whole and once for equal arguments."""
  return _run(vae, method, params, *args)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=_OPTIONS)
def _run(vae, method, params, *args):
  return vae.apply({'params': params}, *args, method=method)


def quickly(function, *args):
  """The result of a call that is compiled without effort."""
  return jax.jit(function, compiler_options=_OPTIONS)(*args)
