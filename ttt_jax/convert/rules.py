"""Conversion of weights by a table of rules, checked in both directions.

A rule maps a tensor of a file to a parameter:

  Rule('blocks.{i}.norm.weight', 'blocks_{i}/norm/scale')
  Rule('blocks.{layer}.q.weight', 'layers/q/kernel', (1, 0))

`{name}` matches one piece of a name (no dot, no slash) and has the same value
in source and target. A placeholder that only the source has is a layer
number: those tensors are stacked on a new leading axis, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from ttt_jax.checkpoints import train_state
from ttt_jax.convert import lazy_params

_PLACEHOLDER = re.compile(r'\{(\w+)\}')

# Axes of a convolution's kernel, which has its features last here.
CONV2D = (2, 3, 1, 0)
CONV3D = (2, 3, 4, 1, 0)

# In place of a layer number, for a tensor that is a parameter by itself.
_UNSTACKED = -1


@dataclasses.dataclass(frozen=True)
class Rule:
  """One line of a table.

  Attributes:
    source: Pattern of the key in the file.
    target: Pattern of the '/'-joined parameter path.
    axes: Permutation that transposes the tensor; None keeps the axes.
    view: Shape of the tensor before it is transposed; the result is reshaped
      to the parameter's shape. None keeps the shape.
    shape: Shape of the tensor in the file; None if it equals `view`.
  """

  source: str
  target: str
  axes: tuple[int, ...] | None = None
  view: tuple[int, ...] | None = None
  shape: tuple[int, ...] | None = None

  @property
  def layer(self) -> str | None:
    """The placeholder that becomes the leading axis, or None."""
    names = set(_PLACEHOLDER.findall(self.target))
    extra = [n for n in _PLACEHOLDER.findall(self.source) if n not in names]
    return extra[0] if extra else None

  def read(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a tensor of the file as a parameter of shape `shape`."""
    if self.view is not None and tensor.shape == (self.shape or self.view):
      return tensor.reshape(self.view).transpose(self.axes).reshape(shape)
    if self.axes is not None and len(self.axes) == tensor.ndim:
      return tensor.transpose(self.axes)
    return tensor

  def write(self, value: np.ndarray) -> np.ndarray | None:
    """Returns the inverse of `read`; None if the rule needs another rank."""
    axes = None if self.axes is None else tuple(np.argsort(self.axes))
    if self.view is not None and self.axes is not None:
      value = value.reshape(np.array(self.view)[list(self.axes)])
      return value.transpose(axes).reshape(self.shape or self.view)
    if axes is None:
      return value
    return value.transpose(axes) if len(axes) == value.ndim else None


def dense(source: str, target: str) -> list[Rule]:
  """Returns the rules of a PyTorch nn.Linear; its weight is transposed."""
  return [
    Rule(f'{source}.weight', f'{target}/kernel', (1, 0)),
    Rule(f'{source}.bias', f'{target}/bias'),
  ]


def conv(
  source: str, target: str, axes: tuple[int, ...] = CONV2D
) -> list[Rule]:
  """Returns the rules of a convolution."""
  return [
    Rule(f'{source}.weight', f'{target}/kernel', axes),
    Rule(f'{source}.bias', f'{target}/bias'),
  ]


def norm(source: str, target: str) -> list[Rule]:
  """Returns the rules of a LayerNorm."""
  return [
    Rule(f'{source}.weight', f'{target}/scale'),
    Rule(f'{source}.bias', f'{target}/bias'),
  ]


def _match(pattern: str, name: str) -> dict[str, str] | None:
  """Returns the values of the placeholders if `name` matches `pattern`."""
  parts = _PLACEHOLDER.split(pattern)
  regex = ''.join(
    f'(?P<{part}>[^./]+)' if i % 2 else re.escape(part)
    for i, part in enumerate(parts)
  )
  found = re.fullmatch(regex, name)
  return found.groupdict() if found else None


def import_params(
  rules: Sequence[Rule],
  tensors: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  name: str,
  *,
  dtype: Any = None,
  sharding: lazy_params.Placement = None,
) -> dict:
  """Returns the nested parameters that consist of a file's tensors.

  Memory on the host holds one tensor at a time, in addition to the result if
  that is not on devices.

  Args:
    rules: Table of rules; the first whose source matches a key is used.
    tensors: Key -> array, or `safetensors_reader.Tensor`.
    shapes: '/'-joined path -> shape of every parameter.
    name: Name of the file, for messages.
    dtype: Type of the parameters; None keeps the type of the tensors.
    sharding: Sharding of each parameter; None returns numpy arrays,
      `lazy_params.ABSTRACT` returns the checked `Parameter`s in their own
      types.

  Raises:
    ValueError: keys without a parameter, parameters without a tensor, types
      that are not floats, or shapes that differ: all in one message.
  """
  flat = _match_tensors(rules, tensors, shapes, name)
  if sharding is not lazy_params.ABSTRACT:
    flat = {
      path: lazy_params.materialize(parameter, dtype, sharding)
      for path, parameter in flat.items()
    }
  return train_state.unflatten(flat)


def _match_tensors(
  rules: Sequence[Rule],
  tensors: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  name: str,
) -> dict[str, lazy_params.Parameter]:
  """Returns path -> parameter, checked but not read; see `import_params`."""
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
      layer = int(values[rule.layer]) if rule.layer else _UNSTACKED
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
      f'{name} does not fit its config, {len(problems)} problem(s): '
      + '; '.join(problems)
    )
  parameters = {}
  for path, shape in shapes.items():
    parts = tuple(found[path][i] for i in sorted(found[path]))
    parameters[path] = lazy_params.Parameter(
      shape=tuple(shape),
      dtype=_dtype(parts[0][1]),
      parts=parts,
      is_stacked=_UNSTACKED not in found[path],
    )
  return parameters


def _dtype(tensor: Any) -> np.dtype:
  """Returns the type of a tensor, uint8 if numpy does not have it."""
  return np.dtype(np.uint8 if isinstance(tensor.dtype, str) else tensor.dtype)


def _problems(
  path: str,
  layers: Mapping[int, tuple[Rule, Any]],
  shape: tuple[int, ...],
) -> list[str]:
  """Returns why the tensors of `layers` do not form a parameter, if so."""
  is_stacked, numbers = _UNSTACKED not in layers, sorted(layers)
  if is_stacked and numbers != list(range(len(numbers))):
    return [f'layers {numbers} of {path} have gaps']
  inner = shape[1:] if is_stacked else shape
  # An array with that shape that takes no memory.
  empty = lambda tensor: np.broadcast_to(np.float32(0), tensor.shape)
  found = {
    rule.read(empty(tensor), inner).shape for rule, tensor in layers.values()
  }
  if len(found) > 1:
    return [f'layers of {path} differ in shape']
  if len({_dtype(tensor) for _, tensor in layers.values()}) > 1:
    return [f'layers of {path} differ in type']
  actual = found.pop()
  if is_stacked:
    actual = (len(numbers), *actual)
  if actual != shape:
    return [f'{path} has shape {actual}, the config requires {shape}']
  return []


def export_params(
  rules: Sequence[Rule], params: Mapping
) -> dict[str, np.ndarray]:
  """Returns key -> array for a file, the inverse of `import_params`.

  The arrays are views of parameters that are numpy arrays.

  Raises:
    ValueError: parameters that no rule writes.
  """
  tensors, unknown = {}, []
  for path, value in train_state.flatten(params).items():
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
