"""Where arrays live: one mesh `(data, sp)`, three rules.

Batches are split over `data`. Parameters, optimizer state and averages are
split over `data` along their largest divisible axis (FSDP), for sampling over
both axes; small ones are copied. Sequences are split over `sp`: by tokens
where tokens do not meet (dense layers, norms), by heads where they do
(attention, TTT), with an all-to-all between the two (Jacobs et al. 2023,
arXiv:2309.14509).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax
from jax import sharding
from jax.experimental import layout
from jax.experimental import mesh_utils
import numpy as np

P = sharding.PartitionSpec
AXES = ('data', 'sp')
# Arrays of fewer elements are copied: gathering them costs more than they take.
MIN_SPLIT = 2**14


def check_mesh(
  mesh: Mapping[str, int],
  *,
  batch_size: int,
  microbatches: int = 1,
  devices: int | None = None,
  num_heads: int | None = None,
) -> None:
  """Raises ValueError where the mesh of a config cannot work.

  Args:
    mesh: config.mesh, sizes of the axes `data` and `sp`.
    batch_size: clips of a step, over all devices.
    microbatches: parts into which a step splits its batch.
    devices: number of devices; None looks at no device.
    num_heads: of the network; None looks at no network.
  """
  data, sp = mesh.get('data', 1), mesh.get('sp', 1)
  if unknown := sorted(set(mesh) - set(AXES)):
    raise ValueError(f'config.mesh has axes {unknown}; legal are {list(AXES)}')
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
  """Reads 'data:64,sp:4'; raises ValueError for anything else."""
  mesh = dict.fromkeys(AXES, 1)
  for part in text.split(','):
    name, _, size = part.partition(':')
    if name not in AXES or not size.isdecimal() or int(size) < 1:
      raise ValueError(
        f'mesh {text!r}: {part!r} is no axis with a size, as in data:64,sp:4'
      )
    mesh[name] = int(size)
  return mesh


def make_mesh(
  mesh: Mapping[str, int], devices: Sequence[Any] | None = None
) -> sharding.Mesh:
  """The device mesh of a config; surplus devices of one host stay unused.

  Args:
    mesh: config.mesh, sizes of the axes `data` and `sp`.
    devices: of the mesh; None takes those of all hosts.

  Raises:
    ValueError: too few devices, or some of another host left out.
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
  # Parts of a sequence talk most: this makes them neighbours.
  grid = mesh_utils.create_device_mesh(
    shape, devices[:size], allow_split_physical_axes=True
  )
  return sharding.Mesh(grid, AXES)


@dataclasses.dataclass(frozen=True)
class Layout:
  """How sequences [B, T, ...] lie on a mesh.

  Attributes:
    mesh: with the axes `AXES`; None is a single device.
  """

  mesh: sharding.Mesh | None = None

  @property
  def sp(self) -> int:
    """Parts of a sequence."""
    return 1 if self.mesh is None else self.mesh.shape['sp']

  @property
  def platform(self) -> str:
    """For which the program is made: 'cpu', 'gpu' or 'tpu'."""
    if self.mesh is None:
      return jax.default_backend()
    return self.mesh.devices.flat[0].platform

  def check_heads(self, num_heads: int) -> None:
    """Raises ValueError unless the heads can be split."""
    if num_heads % self.sp:
      raise ValueError(
        f'{num_heads} heads do not split over {self.sp} devices of the mesh'
        f' axis sp; {math.gcd(num_heads, self.sp)} would do'
      )

  def padded(self, length: int, multiple: int) -> int:
    """Tokens to keep for `length` of them: a `multiple` for each part."""
    if self.sp == 1 and self.platform != 'tpu':
      return length
    return -(-length // (self.sp * multiple)) * self.sp * multiple

  def by_tokens(self, x: jax.Array) -> jax.Array:
    """x [B, T, ...], its tokens split over `sp`."""
    if self.mesh is None:
      return x
    return jax.lax.with_sharding_constraint(
      x, sharding.NamedSharding(self.mesh, P(self._batch(x), 'sp'))
    )

  def by_batch(self, x: jax.Array) -> jax.Array:
    """x [B, ...], whole but for the batch; for what is small."""
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
    """Calls `function` where whole sequences of some heads are at hand.

    One all-to-all on the way in and one on the way out.

    Args:
      function: (z, weights, shared) -> (out [b, T, X'], more) with z
        [b, T, X], h heads of each weight, and all of `shared`; `more` is a
        pytree of [b, h, ...].
      z: [sp, B, T, X] by tokens: for each part of the heads its features.
      weights: arrays [H, ...].
      shared: pytree of arrays.

    Returns:
      out [sp, B, T, X'] by tokens, and `more` with [B, H, ...].
    """
    if self.mesh is None:
      out, more = function(z[0], weights, shared)
      return out[None], more
    batch = self._batch(z[0])

    def local(z, weights, shared):
      out, more = function(_to_heads(z, self.platform), weights, shared)
      return _to_tokens(out, self.sp, self.platform), more

    tokens = P(None, batch, 'sp')
    return jax.shard_map(
      local,
      mesh=self.mesh,
      in_specs=(tokens, P('sp'), P()),
      out_specs=(tokens, P(batch, 'sp')),
      # Kernels do not say along which axes their results vary.
      check_vma=False,
    )(z, tuple(weights), shared)

  def by_frames(
    self,
    function: Callable[..., jax.Array],
    params: Any,
    video: jax.Array,
    *others: jax.Array,
  ) -> jax.Array:
    """Calls `function` on every device with its frames of its clips.

    Args:
      function: (params, video [b, f, ...], *others) -> [b, f, ...].
      params: pytree, whole on every device.
      video: [B, F, ...], `sp` divides F.
      *others: arrays [B, ...], whole but for the batch.

    Returns:
      [B, F, ...].
    """
    batch = self._batch(video)
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=(P(), P(batch, 'sp'), *[P(batch)] * len(others)),
      out_specs=P(batch, 'sp'),
      # Kernels do not say along which axes their results vary.
      check_vma=False,
    )(params, video, *others)

  def _batch(self, x: jax.Array) -> str | None:
    """The axis of the batch; a batch that does not divide is copied."""
    return None if x.shape[0] % self.mesh.shape['data'] else 'data'


def _to_heads(z, platform):
  """[sp, b, T / sp, X], a block for each device -> [b, T, X]."""
  sp, b, t, x = z.shape
  if sp > 1:
    z = jax.lax.all_to_all(_rows(z, platform), 'sp', 0, 0, tiled=True)
  return _rows(z.swapaxes(0, 1).reshape(b, sp * t, x), platform)


def _to_tokens(y, sp, platform):
  """[b, T, X] -> [sp, b, T / sp, X], a block from each device."""
  b, t, x = y.shape
  y = y.reshape(b, sp, t // sp, x).swapaxes(0, 1)
  if sp > 1:
    y = jax.lax.all_to_all(_rows(y, platform), 'sp', 0, 0, tiled=True)
  return y


def _rows(x, platform):
  """x with its features side by side in memory, as kernels want it on TPUs.

  Left to itself, the compiler puts the tokens of long sequences there and
  pays with copies.
  """
  if platform != 'tpu':
    return x
  return layout.with_layout_constraint(x, layout.Layout(tuple(range(x.ndim))))


def batch_sharding(mesh: sharding.Mesh) -> sharding.NamedSharding:
  """First axis over `data`."""
  return sharding.NamedSharding(mesh, P('data'))


def replicated(mesh: sharding.Mesh) -> sharding.NamedSharding:
  """The same copy on every device."""
  return sharding.NamedSharding(mesh, P())


def param_sharding(
  mesh: sharding.Mesh, leaf: Any, axes: Sequence[str] = ('data',)
) -> sharding.NamedSharding:
  """FSDP: the largest axis that `data` divides, copied if small or odd.

  Args:
    mesh: the device mesh.
    leaf: array or `jax.ShapeDtypeStruct`.
    axes: of the mesh, over which to split; `AXES` leaves the least on each
      device, for sampling. What does not divide by all takes fewer.
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
  """`param_sharding` of each leaf: for parameters and whole train states."""
  return jax.tree.map(lambda leaf: param_sharding(mesh, leaf), tree)


def local_rows(mesh: sharding.Mesh, batch_size: int) -> list[int]:
  """Rows of a global batch that the devices of this process hold.

  Where a sequence is split over several hosts all of them hold its row.
  """
  where = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  return sorted(
    {row for (part,) in where.values() for row in range(batch_size)[part]}
  )


def put_batch(mesh: sharding.Mesh, batch: Mapping[str, np.ndarray]) -> Any:
  """Places this process's rows of a batch; returns the global arrays.

  Args:
    mesh: the device mesh.
    batch: arrays of `local_rows` of the global batch.
  """
  where, parts = batch_sharding(mesh), mesh.shape['data']
  share = len(local_rows(mesh, parts))

  def put(x):
    size = len(x) * parts // share
    first = {row: i for i, row in enumerate(local_rows(mesh, size))}

    def part(index):
      start = first[index[0].start or 0]
      return x[start : start + size // parts]

    return jax.make_array_from_callback((size, *x.shape[1:]), where, part)

  return {k: put(v) for k, v in batch.items()}
