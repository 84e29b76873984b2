"""Sharding of arrays over one mesh `(data, sp)`, by three rules.

1. Batches are split over `data`.
2. Parameters, optimizer state and averages are split along their largest
   divisible axis (FSDP): over `data` for training, over both mesh axes for
   sampling, unless every device has the memory for all of them. Small arrays
   are replicated.
3. Sequences are split over `sp`: by tokens in layers that treat each token on
   its own (dense layers, norms), by heads in layers that mix tokens (attention,
   TTT). An all-to-all converts between the two (Jacobs et al. 2023,
   arXiv:2309.14509).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

import jax
from jax import sharding
from jax.experimental import layout
from jax.experimental import mesh_utils
import numpy as np

from ttt_jax.runtime import chips

P = sharding.PartitionSpec
AXES = ('data', 'sp')
# Smaller arrays are replicated: gathering them costs more than it saves.
MIN_SPLIT = 2**14
# Weights of sampling are copied to devices of which they take at most this
# share: a step then gathers nothing, and its products are whole.
_COPIED_SHARE = 0.5


def check_mesh(
  mesh: Mapping[str, int],
  *,
  batch_size: int,
  microbatches: int = 1,
  devices: int | None = None,
  num_heads: int | None = None,
) -> None:
  """Raises ValueError if the mesh of a config does not divide its sizes.

  Args:
    mesh: `config.mesh`, sizes of the axes `data` and `sp`.
    batch_size: Clips per step, over all devices.
    microbatches: Number of parts into which a step splits its batch.
    devices: Number of devices; None skips the check against it.
    num_heads: Heads of the network; None skips the check against them.
  """
  data, sp = mesh.get('data', 1), mesh.get('sp', 1)
  if unknown := sorted(set(mesh) - set(AXES)):
    raise ValueError(
      f'config.mesh has axes {unknown}; expected some of {list(AXES)}'
    )
  if data < 1:
    raise ValueError(f'config.mesh.data is {data}; it must be 1 or more')
  if sp < 1:
    raise ValueError(f'config.mesh.sp is {sp}; it must be 1 or more')
  if num_heads is not None and num_heads % sp:
    raise ValueError(
      f'config.mesh.sp {sp} does not divide the {num_heads} heads of the'
      f' network; {math.gcd(num_heads, sp)} does'
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


def parse_mesh(text: str) -> dict[str, int]:
  """Parses a mesh such as 'data:64,sp:4'; raises ValueError otherwise.

  Example:
    >>> parse_mesh('data:64,sp:4')
    {'data': 64, 'sp': 4}
  """
  mesh = dict.fromkeys(AXES, 1)
  for part in text.split(','):
    name, _, size = part.partition(':')
    if name not in AXES or not size.isdecimal() or int(size) < 1:
      raise ValueError(
        f'mesh {text!r}: {part!r} is not AXIS:SIZE as in data:64,sp:4'
      )
    mesh[name] = int(size)
  return mesh


def make_mesh(
  mesh: Mapping[str, int], devices: Sequence[Any] | None = None
) -> sharding.Mesh:
  """Returns the device mesh of a config.

  A single process may leave devices unused; several processes must use all.

  Args:
    mesh: `config.mesh`, sizes of the axes `data` and `sp`.
    devices: Devices to use; None takes the devices of all hosts.

  Raises:
    ValueError: there are too few devices, or several processes would leave
      some unused.
  """
  shape = tuple(mesh.get(name, 1) for name in AXES)
  everywhere = devices is None
  devices = jax.devices() if everywhere else devices
  size = math.prod(shape)
  if len(devices) < size:
    raise ValueError(
      f'mesh {dict(zip(AXES, shape))} needs {size} devices; there are'
      f' {len(devices)}'
    )
  if everywhere and jax.process_count() > 1 and len(devices) != size:
    raise ValueError(
      f'config.mesh {dict(zip(AXES, shape))} covers {size} devices, but all'
      f' {len(devices)} devices of all hosts must take part'
    )
  # Parts of a sequence communicate most: they are placed next to each other.
  grid = _block_grid(devices[:size], shape[1])
  if grid is None:
    grid = mesh_utils.create_device_mesh(
      shape, devices[:size], allow_split_physical_axes=True
    )
  return sharding.Mesh(grid, AXES)


def block_sides(
  size: int, shape: Sequence[int], ring: int
) -> tuple[int, ...] | None:
  """Returns the sides of the block of chips that exchange data fastest.

  In an all-to-all a half of all bytes crosses the middle of the longest side: a
  line has one link there for each row of the block, a ring two.

  Args:
    size: Number of chips of the block.
    shape: Sides of the slice.
    ring: Smallest side of a slice whose ends are linked.

  Returns:
    Divisors of the sides, complete axes where that is as fast; None if no block
    of the size divides the slice.

  Example:
    >>> block_sides(8, (16, 16), ring=16)
    (2, 4)
    >>> block_sides(4, (8, 8, 4), ring=4)
    (1, 1, 4)
  """

  def cost(sides):
    pairs = [(a, b) for a, b in zip(sides, shape) if a > 1]
    crossing = max(
      (a / (8 if a == b and b >= ring else 4) for a, b in pairs), default=0
    )
    return max(crossing, 0.5), sum(a != b for a, b in pairs), sides

  divisors = [[a for a in range(1, b + 1) if b % a == 0] for b in shape]
  found = (s for s in itertools.product(*divisors) if math.prod(s) == size)
  return min(found, key=cost, default=None)


def _block_grid(devices: Sequence[Any], sp: int) -> np.ndarray | None:
  """Returns devices of TPUs [data, sp] whose rows are blocks of the slice.

  None if rows have one device, if the devices are no complete slice of a known
  kind, or if no block fits.
  """
  ring = chips.ring(devices[0].device_kind)
  if sp == 1 or ring is None or getattr(devices[0], 'coords', None) is None:
    return None
  coordinates = np.array(
    [(*d.coords, getattr(d, 'core_on_chip', 0)) for d in devices]
  )
  shape = np.ptp(coordinates, axis=0) + 1
  *slice_, per_chip = shape.tolist()
  # Devices of one chip first: their links are the chip's.
  per_chip = math.gcd(sp, per_chip)
  sides = block_sides(sp // per_chip, slice_, ring)
  if math.prod(shape) != len(devices) or sides is None:
    return None
  sides = *sides, per_chip
  grid = np.empty(shape, object)
  for device, at in zip(devices, coordinates - coordinates.min(axis=0)):
    grid[tuple(at)] = device
  if any(device is None for device in grid.flat):
    return None
  split = [n for a, b in zip(sides, shape) for n in (b // a, a)]
  grid = grid.reshape(split)
  order = (*range(0, grid.ndim, 2), *range(1, grid.ndim, 2))
  return grid.transpose(order).reshape(-1, sp)


@dataclasses.dataclass(frozen=True)
class ShardingPlan:
  """Placement of sequences [B, T, ...] on a mesh.

  Attributes:
    mesh: Mesh with the axes `AXES`; None is a single device.
  """

  mesh: sharding.Mesh | None = None

  @property
  def sp(self) -> int:
    """Number of parts of a sequence."""
    return 1 if self.mesh is None else self.mesh.shape['sp']

  @property
  def platform(self) -> str:
    """Target of the compilation: 'cpu', 'gpu' or 'tpu'."""
    if self.mesh is None:
      return jax.default_backend()
    return self.mesh.devices.flat[0].platform

  def check_heads(self, num_heads: int) -> None:
    """Raises ValueError unless `sp` divides the heads."""
    if num_heads % self.sp:
      raise ValueError(
        f'{num_heads} heads do not split over {self.sp} devices of the mesh'
        f' axis sp; {math.gcd(num_heads, self.sp)} divides them'
      )

  def padded(self, length: int, multiple: int) -> int:
    """Returns the padded length: a multiple of `multiple` for each part.

    On a single device that is not a TPU, sequences need no padding.
    """
    if self.sp == 1 and self.platform != 'tpu':
      return length
    return -(-length // (self.sp * multiple)) * self.sp * multiple

  def by_tokens(self, x: jax.Array) -> jax.Array:
    """Splits the tokens of x [B, T, ...] over `sp`."""
    if self.mesh is None:
      return x
    return jax.lax.with_sharding_constraint(
      x, sharding.NamedSharding(self.mesh, P(self._batch(x), 'sp'))
    )

  def by_batch(self, x: jax.Array) -> jax.Array:
    """Splits only the batch of x [B, ...]; for small arrays."""
    if self.mesh is None:
      return x
    return jax.lax.with_sharding_constraint(
      x, sharding.NamedSharding(self.mesh, P(self._batch(x)))
    )

  def by_heads(
    self,
    function: Callable[..., tuple[jax.Array, Any]],
    z: jax.Array,
    weights: Sequence[jax.Array] = (),
    shared: Any = (),
  ) -> tuple[jax.Array, Any]:
    """Calls `function` on complete sequences of some of the heads.

    One all-to-all precedes the call and one follows it.

    Args:
      function: Maps (z [b, T, X], h heads of each weight, all of `shared`) to
        (out [b, T, X'], aux); `aux` is a pytree of [b, h, ...].
      z: Features of each part of the heads, [sp, B, T, X], split by tokens.
      weights: Arrays [H, ...], split by heads.
      shared: Pytree of replicated arrays.

    Returns:
      out [sp, B, T, X'], split by tokens, and `aux` with [B, H, ...].
    """
    if self.mesh is None:
      out, aux = function(z[0], weights, shared)
      return out[None], aux
    batch = self._batch(z[0])

    def local(z, weights, shared):
      out, aux = function(_to_heads(z, self.platform), weights, shared)
      return _to_tokens(out, self.sp, self.platform), aux

    tokens = P(None, batch, 'sp')
    return jax.shard_map(
      local,
      mesh=self.mesh,
      in_specs=(tokens, P('sp'), P()),
      out_specs=(tokens, P(batch, 'sp')),
      # Pallas kernels do not declare over which axes their results vary.
      check_vma=False,
    )(z, tuple(weights), shared)

  def by_frames(
    self,
    function: Callable[..., Any],
    params: Any,
    video: jax.Array,
    *others: jax.Array,
  ) -> jax.Array:
    """Calls `function` on every device with that device's frames and clips.

    Args:
      function: Maps (params, video [b, f, ...], *others) to [b, f, ...].
      params: Pytree of replicated arrays.
      video: Array [B, F, ...]; `sp` divides F.
      *others: Arrays [B, ...], split over the batch only.

    Returns:
      [B, F, ...].
    """
    batch = self._batch(video)
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=(P(), P(batch, 'sp'), *[P(batch)] * len(others)),
      out_specs=P(batch, 'sp'),
      # Pallas kernels do not declare over which axes their results vary.
      check_vma=False,
    )(params, video, *others)

  def _batch(self, x: jax.Array) -> str | None:
    """Mesh axis of the batch; None replicates one that does not divide."""
    if self.mesh is None or x.shape[0] % self.mesh.shape['data']:
      return None
    return 'data'


def _to_heads(z, platform):
  """Sends [sp, b, T / sp, X], one block per device -> [b, T, X]."""
  sp, b, t, x = z.shape
  if sp > 1:
    z = jax.lax.all_to_all(_row_major(z, platform), 'sp', 0, 0, tiled=True)
  return _row_major(z.swapaxes(0, 1).reshape(b, sp * t, x), platform)


def _to_tokens(y, sp, platform):
  """Sends [b, T, X] -> [sp, b, T / sp, X], one block from each device."""
  b, t, x = y.shape
  y = y.reshape(b, sp, t // sp, x).swapaxes(0, 1)
  if sp > 1:
    y = jax.lax.all_to_all(_row_major(y, platform), 'sp', 0, 0, tiled=True)
  return y


def _row_major(x, platform):
  """Makes the features of x contiguous on TPUs, as the kernels require.

  Without the constraint the compiler makes the tokens of long sequences
  contiguous and inserts copies.
  """
  if platform != 'tpu':
    return x
  return layout.with_layout_constraint(x, layout.Layout(tuple(range(x.ndim))))


def batch_sharding(mesh: sharding.Mesh) -> sharding.NamedSharding:
  """Returns the sharding of the first axis over `data`."""
  return sharding.NamedSharding(mesh, P('data'))


def replicated(mesh: sharding.Mesh) -> sharding.NamedSharding:
  """Returns the sharding with a copy on every device."""
  return sharding.NamedSharding(mesh, P())


def param_sharding(
  mesh: sharding.Mesh, leaf: Any, axes: Sequence[str] = ('data',)
) -> sharding.NamedSharding:
  """Returns the FSDP sharding of an array: its largest divisible axis is split.

  Args:
    mesh: Device mesh.
    leaf: Array or `jax.ShapeDtypeStruct`.
    axes: Mesh axes over which to split. Where no axis of the array divides by
      all of them, the last are dropped; small arrays are replicated. `AXES`
      leaves the least memory per device and serves sampling.
  """
  size = math.prod(mesh.shape[name] for name in axes)
  fits = [i for i, n in enumerate(leaf.shape) if n % size == 0]
  if size == 1 or math.prod(leaf.shape) < MIN_SPLIT:
    return replicated(mesh)
  if not fits:
    return param_sharding(mesh, leaf, axes[:-1])
  axis = max(fits, key=lambda i: leaf.shape[i])
  return sharding.NamedSharding(mesh, P(*[None] * axis, tuple(axes)))


def tree_shardings(mesh: sharding.Mesh, tree: Any) -> Any:
  """Applies `param_sharding` to parameters or a complete train state."""
  return jax.tree.map(lambda leaf: param_sharding(mesh, leaf), tree)


def sampling_shardings(
  mesh: sharding.Mesh, params: Any, memory: float | None
) -> Any:
  """Returns the shardings of the weights for sampling.

  Args:
    mesh: Device mesh.
    params: Pytree of arrays or `jax.ShapeDtypeStruct`.
    memory: Bytes of a device; None if they are not known.
  """
  if memory is not None and can_be_copied(_num_bytes(params), memory):
    return jax.tree.map(lambda _: replicated(mesh), params)
  return jax.tree.map(lambda x: param_sharding(mesh, x, AXES), params)


def sampling_options(mesh: sharding.Mesh | None) -> dict[str, Any] | None:
  """Returns compiler options of sampling on a mesh, for `jax.jit`.

  On TPUs split weights are gathered by layer. The compiler would cut every
  product into as many parts as there are devices instead: by its own estimate a
  step of the 5B model on v5e:4x4 takes 24.6 s so, and 15.8 s with gathers.
  """
  if mesh is None or mesh.devices.flat[0].platform != 'tpu':
    return None
  return {'xla_tpu_enable_windowed_einsum_for_all_gather': False}


def can_be_copied(size: float, memory: float) -> bool:
  """Returns whether sampling copies weights to every device.

  Args:
    size: Bytes of the weights.
    memory: Bytes of a device.
  """
  return size <= _COPIED_SHARE * memory


def _num_bytes(params: Any) -> int:
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(params)
  )


def copy_for_sampling(mesh: sharding.Mesh | None, params: Any) -> Any:
  """Copies split weights to all devices if these have the memory for it."""
  if mesh is None:
    return params
  found = [device.memory_stats() or {} for device in mesh.local_devices]
  limits = [stats.get('bytes_limit', 0) for stats in found]
  if not can_be_copied(_num_bytes(params), min(limits)):
    return params
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(params)


def local_rows(mesh: sharding.Mesh, batch_size: int) -> list[int]:
  """Returns the rows of a global batch that this process's devices hold.

  If a sequence is split over several hosts, each of them holds its row.
  """
  indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  return sorted(
    {
      row
      for index in indices.values()
      if index is not None
      for row in range(batch_size)[index[0]]
    }
  )


def put_batch(mesh: sharding.Mesh, batch: Mapping[str, np.ndarray]) -> Any:
  """Places this process's rows of a batch; returns the global arrays.

  Args:
    mesh: Device mesh.
    batch: Arrays of the rows `local_rows` of the global batch.
  """
  rows, parts = batch_sharding(mesh), mesh.shape['data']
  local_parts = len(local_rows(mesh, parts))

  def put(x):
    size = len(x) * parts // local_parts
    first_rows = {row: i for i, row in enumerate(local_rows(mesh, size))}

    def part(index):
      start = first_rows[index[0].start or 0]
      return x[start : start + size // parts]

    return jax.make_array_from_callback((size, *x.shape[1:]), rows, part)

  return {k: put(v) for k, v in batch.items()}
