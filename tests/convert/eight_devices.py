"""Loads a transformer onto a mesh of eight devices and looks at it there.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python -m tests.convert.eight_devices FOLDER

prints as JSON how many parameters are split, the largest part of such a one
that a device holds, and whether all values are those of a plain load.
"""

import functools
import json
import sys

import jax
import numpy as np

from ttt_jax import convert
from ttt_jax import sharding


def main(folder):
  # Small arrays would be copied to all devices.
  sharding.MIN_SPLIT = 64
  mesh = sharding.make_mesh(dict(data=8))
  options = dict(mixer='ttt_mlp', mini_batch=8, dtype=np.float32)
  _, params = convert.load_dit(
    folder,
    sharding=functools.partial(sharding.param_sharding, mesh),
    **options,
  )
  _, plain = convert.load_dit(folder, **options)
  split = [
    x for x in jax.tree.leaves(params) if not x.sharding.is_fully_replicated
  ]
  largest = max(
    part.data.size / x.size for x in split for part in x.addressable_shards
  )
  equal = jax.tree.map(lambda a, b: bool((a == b).all()), params, plain)
  print(
    json.dumps(
      dict(
        split=len(split),
        largest_part=largest,
        equal=all(jax.tree.leaves(equal)),
      )
    )
  )


if __name__ == '__main__':
  main(sys.argv[1])
