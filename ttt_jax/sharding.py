"""Where arrays live: one mesh `(data, sp)`, two rules.

Batches are split over `data`; parameters, optimizer state and averages are
split over `data` along their largest divisible axis (FSDP), small ones are
copied. `sp`, the axis for heads and tokens, is reserved.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

import jax
from jax import sharding
import numpy as np

P = sharding.PartitionSpec
AXES = ('data', 'sp')
# Arrays of fewer elements are copied: gathering them costs more than they take.
MIN_SPLIT = 2**14


def check_mesh(
    mesh: Mapping[str, int], *, batch_size: int, microbatches: int = 1,
    devices: int | None = None,
) -> None:  # pyformat: disable
  """Raises ValueError where the mesh of a config cannot work.

  Args:
    mesh: config.mesh, sizes of the axes `data` and `sp`.
    batch_size: clips of a step, over all devices.
    microbatches: parts into which a step splits its batch.
    devices: number of devices; None looks at no device.
  """
  data, sp = mesh.get('data', 1), mesh.get('sp', 1)
  if unknown := sorted(set(mesh) - set(AXES)):
    raise ValueError(f'config.mesh has axes {unknown}; legal are {list(AXES)}')
  if data < 1:
    raise ValueError(f'config.mesh.data is {data}; it must be 1 or more')
  if sp != 1:
    raise ValueError(
        f'config.mesh.sp is {sp}: splitting a sequence over devices is not'
        ' there yet; the legal value is 1'
    )
  if microbatches < 1 or batch_size % microbatches:
    raise ValueError(
        f'config.microbatches {microbatches} does not divide config.batch_size'
        f' {batch_size}; {math.gcd(batch_size, max(microbatches, 1))} does'
    )
  if (batch_size // microbatches) % data:
    raise ValueError(
        f'config.mesh.data {data} does not divide the batch of'
        f' {batch_size // microbatches} clips (config.batch_size /'
        ' config.microbatches);'
        f' {math.gcd(batch_size // microbatches, data)} does'
    )
  if devices is not None and devices % (data * sp):
    raise ValueError(
        f'config.mesh data {data} x sp {sp} does not divide the {devices}'
        f' devices of this machine; data {math.gcd(devices, data)} does'
    )


def make_mesh(mesh: Mapping[str, int]) -> sharding.Mesh:
  """The device mesh of a config; surplus devices of one host stay unused."""
  shape = tuple(mesh.get(name, 1) for name in AXES)
  devices = jax.devices()
  if jax.process_count() > 1 and len(devices) != math.prod(shape):
    raise ValueError(
        f'config.mesh {dict(zip(AXES, shape))} covers {math.prod(shape)}'
        f' devices, but all {len(devices)} devices of all hosts must take part'
    )
  grid = np.asarray(devices[: math.prod(shape)]).reshape(shape)
  return sharding.Mesh(grid, AXES)


def batch_sharding(mesh: sharding.Mesh) -> sharding.NamedSharding:
  """First axis over `data`."""
  return sharding.NamedSharding(mesh, P('data'))


def replicated(mesh: sharding.Mesh) -> sharding.NamedSharding:
  """The same copy on every device."""
  return sharding.NamedSharding(mesh, P())


def param_sharding(mesh: sharding.Mesh, leaf: Any) -> sharding.NamedSharding:
  """FSDP: the largest axis that `data` divides, copied if small or odd.

  Args:
    mesh: the device mesh.
    leaf: array or `jax.ShapeDtypeStruct`.
  """
  size = mesh.shape['data']
  fits = [i for i, n in enumerate(leaf.shape) if n % size == 0]
  if size == 1 or math.prod(leaf.shape) < MIN_SPLIT or not fits:
    return replicated(mesh)
  axis = max(fits, key=lambda i: leaf.shape[i])
  return sharding.NamedSharding(mesh, P(*[None] * axis, 'data'))


def tree_shardings(mesh: sharding.Mesh, tree: Any) -> Any:
  """`param_sharding` of each leaf: for parameters and whole train states."""
  return jax.tree.map(lambda leaf: param_sharding(mesh, leaf), tree)


def put_batch(mesh: sharding.Mesh, batch: Mapping[str, np.ndarray]) -> Any:
  """Places this host's part of a batch; returns the global arrays."""
  where = batch_sharding(mesh)
  return {
      k: jax.make_array_from_process_local_data(where, v)
      for k, v in batch.items()
  }
