"""Encodes texts by a T5 that is split over eight devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python -m tests.models.t5_devices FOLDER

prints, as JSON, the largest difference to one device, relative to the largest
value, and what a device holds of a larger model, in bytes.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import sharding
from ttt_jax.encoders import load_text as encoder_lib
from ttt_jax.models.text import t5

TEXTS = ['a cat', 'The dog runs.', '', 'It goes on.<end_scene>', 'the mat']
# Large enough that its parameters are split, and deep enough that a copy of
# all of them cannot hide among the activations.
CONFIG = t5.T5Config(
  vocab_size=512,
  width=128,
  num_layers=16,
  num_heads=8,
  head_dim=32,
  mlp_dim=512,
)


def memory(mesh):
  """Bytes of arguments and temporaries on a device, and of all parameters."""
  shapes = t5.abstract_params(CONFIG)
  place = functools.partial(sharding.param_sharding, mesh)
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)),
    shapes,
  )
  ids = jax.ShapeDtypeStruct(
    (8, 16), jnp.int32, sharding=sharding.batch_sharding(mesh)
  )
  module = t5.T5Encoder(CONFIG, sharding.Layout(mesh))
  apply = lambda p, ids: module.apply({'params': p}, ids)
  found = jax.jit(apply).lower(params, ids).compile().memory_analysis()
  return dict(
    arguments=found.argument_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
    parameters=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)),
  )


def main(folder):
  want = encoder_lib.load_text_encoder(folder, 24).encode(TEXTS)
  report = {}
  sharding.MIN_SPLIT = 1  # Also tiny parameters.
  for shape in (dict(data=8), dict(data=4, sp=2), dict(data=3)):
    mesh = sharding.make_mesh(shape)
    encoder = encoder_lib.load_text_encoder(folder, 24, mesh=mesh)
    got = encoder.encode(TEXTS)
    report[str(shape)] = float(np.abs(got - want).max() / np.abs(want).max())
  print(json.dumps(report | memory(sharding.make_mesh(dict(data=8)))))


if __name__ == '__main__':
  main(*sys.argv[1:])
