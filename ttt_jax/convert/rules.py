"""Weight conversion by a table of rules, checked both ways.

A rule names a tensor of the source file and its place in our parameters:

  Rule('blocks.{i}.norm.weight', 'blocks_{i}/norm/scale')
  Rule('blocks.{layer}.q.weight', 'layers/q/kernel', (1, 0))

`{name}` stands for one piece of a name (no dot, no slash) and is carried
over. A placeholder of the source that the target lacks is a layer number:
those tensors are stacked on a new leading axis of the target, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from ttt_jax.convert import lazy_params

_PLACEHOLDER = re.compile(r'\{(\w+)\}')


@dataclasses.dataclass(frozen=True)
class Rule:
  """One line of a table.

  Attributes:
    source: pattern of the key in the file.
    target: pattern of the parameter path, pieces joined by '/'.
    axes: target = source transposed so; None leaves the axes alone.
    view: shape that a tensor of the file is given before it is transposed;
      behind that it takes the shape of its place. None: shapes stay.
    shape: of a tensor in the file, where that is not `view`.
  """

  source: str
  target: str
  axes: tuple[int, ...] | None = None
  view: tuple[int, ...] | None = None
  shape: tuple[int, ...] | None = None

  @property
  def layer(self) -> str | None:
    """The placeholder that becomes the leading axis, if any."""
    names = set(_PLACEHOLDER.findall(self.target))
    extra = [n for n in _PLACEHOLDER.findall(self.source) if n not in names]
    return extra[0] if extra else None

  def read(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of the file as it stands at its place, of shape `shape`."""
    if self.view is not None and tensor.shape == (self.shape or self.view):
      return tensor.reshape(self.view).transpose(self.axes).reshape(shape)
    if self.axes is not None and len(self.axes) == tensor.ndim:
      return tensor.transpose(self.axes)
    return tensor

  def write(self, value: np.ndarray) -> np.ndarray | None:
    """The inverse of `read`; None if the rule is for other ranks."""
    axes = None if self.axes is None else tuple(np.argsort(self.axes))
    if self.view is not None:
      value = value.reshape(np.array(self.view)[list(self.axes)])
      return value.transpose(axes).reshape(self.shape or self.view)
    if axes is None:
      return value
    return value.transpose(axes) if len(axes) == value.ndim else None


def dense(source: str, target: str) -> list[Rule]:
  """The rules of PyTorch's nn.Linear, whose weight is our transpose."""
  return [
    Rule(f'{source}.weight', f'{target}/kernel', (1, 0)),
    Rule(f'{source}.bias', f'{target}/bias'),
  ]


def norm(source: str, target: str) -> list[Rule]:
  """The rules of a LayerNorm."""
  return [
    Rule(f'{source}.weight', f'{target}/scale'),
    Rule(f'{source}.bias', f'{target}/bias'),
  ]


def _match(pattern: str, name: str) -> dict[str, str] | None:
  """Values of the placeholders if `name` fits `pattern`."""
  parts = _PLACEHOLDER.split(pattern)
  regex = ''.join(
    f'(?P<{part}>[^./]+)' if i % 2 else re.escape(part)
    for i, part in enumerate(parts)
  )
  found = re.fullmatch(regex, name)
  return found.groupdict() if found else None


def from_source(
  rules: Sequence[Rule],
  tensors: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  what: str,
  *,
  dtype: Any = None,
  sharding: lazy_params.Sharding | None = None,
) -> dict:
  """Returns the nested parameters that a file's tensors make.

  Memory on the host holds one tensor at a time beside the result, and where
  `sharding` puts the result on devices, that tensor alone.

  Args:
    rules: the table; the first rule whose source fits a key is used.
    tensors: key -> array, or a tensor not read yet, see `files.Tensor`.
    shapes: '/'-joined path -> shape of every parameter to be filled.
    what: the file's name, for messages.
    dtype: of the parameters; None keeps that of the tensors.
    sharding: where each parameter goes; None gives numpy arrays, and
      `lazy_params.UNREAD` the checked `Parameter`s, which `dtype` leaves alone.

  Raises:
    ValueError: keys without a place, parameters not filled, types that are
      no floats, or shapes that differ: all of them in one message.
  """
  flat = _plan(rules, tensors, shapes, what)
  if sharding is not lazy_params.UNREAD:
    flat = {
      path: lazy_params.place(parameter, dtype, sharding)
      for path, parameter in flat.items()
    }
  return traverse_util.unflatten_dict(flat, sep='/')


def _plan(
  rules: Sequence[Rule],
  tensors: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  what: str,
) -> dict[str, lazy_params.Parameter]:
  """Path -> parameter, all checked and none read; see `from_source`."""
  found, problems = {}, []
  for key, tensor in tensors.items():
    for rule in rules:
      values = _match(rule.source, key)
      if values is None:
        continue
      path = rule.target.format(**values)
      if path not in shapes:
        problems.append(f'{key} has no place in the model')
        break
      if not jnp.issubdtype(_dtype(tensor), jnp.floating):
        problems.append(
          f'{key} has type {tensor.dtype}, weights must have one of float32,'
          ' bfloat16, float16, float64'
        )
      layer = int(values[rule.layer]) if rule.layer else None
      found.setdefault(path, {})[layer] = rule, tensor
      break
    else:
      problems.append(f'{key} is not known')
  for path, shape in shapes.items():
    if path not in found:
      problems.append(f'{path} {tuple(shape)} is missing')
    else:
      problems += _problems(path, found[path], tuple(shape))
  if problems:
    raise ValueError(
      f'{what} does not fit its config, {len(problems)} problem(s): '
      + '; '.join(problems)
    )
  return {
    path: lazy_params.Parameter(
      tuple(shape),
      _dtype(found[path][min(found[path])][1]),
      tuple(found[path][i] for i in sorted(found[path])),
      None not in found[path],
    )
    for path, shape in shapes.items()
  }


def _dtype(tensor: Any) -> np.dtype:
  """Its type; that of bytes for names that numpy does not know."""
  return np.dtype(np.uint8 if isinstance(tensor.dtype, str) else tensor.dtype)


def _problems(
  path: str,
  layers: Mapping[int | None, tuple[Rule, Any]],
  shape: tuple[int, ...],
) -> list[str]:
  """What keeps the tensors of `layers` from making a parameter."""
  numbers = list(layers)
  if None not in layers and sorted(numbers) != list(range(len(numbers))):
    return [f'layers {sorted(numbers)} of {path} have gaps']
  inner = shape if None in layers else shape[1:]
  read = lambda rule, tensor: (
    rule.read(
      # Has a shape, but no memory.
      np.broadcast_to(np.float32(0), tensor.shape),
      inner,
    ).shape
  )
  found = {read(rule, tensor) for rule, tensor in layers.values()}
  if len(found) > 1:
    return [f'layers of {path} differ in shape']
  if len({_dtype(tensor) for _, tensor in layers.values()}) > 1:
    return [f'layers of {path} differ in type']
  whole = found.pop()
  if None not in layers:
    whole = (len(numbers), *whole)
  if whole != shape:
    return [f'{path} has shape {whole}, the config asks for {shape}']
  return []


def to_source(rules: Sequence[Rule], params: Mapping) -> dict[str, np.ndarray]:
  """Returns key -> array for a file: the inverse of `from_source`.

  The arrays are views of the parameters where these are numpy arrays.

  Raises:
    ValueError: parameters that no rule writes.
  """
  tensors, unknown = {}, []
  for path, value in traverse_util.flatten_dict(params, sep='/').items():
    value = np.asarray(value)
    for rule in rules:
      values = _match(rule.target, path)
      if values is None:
        continue
      if rule.layer is None:
        named = [(values, value)]
      else:
        named = [
          (values | {rule.layer: str(i)}, part) for i, part in enumerate(value)
        ]
      written = [(names, rule.write(part)) for names, part in named]
      if any(part is None for _, part in written):
        continue
      for names, part in written:
        tensors[rule.source.format(**names)] = part
      break
    else:
      unknown.append(path)
  if unknown:
    raise ValueError(
      'no rule writes these parameters: ' + '; '.join(sorted(unknown))
    )
  return tensors
