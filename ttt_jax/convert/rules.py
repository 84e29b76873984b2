"""Conversion of weights by a table of rules, checked in both directions.

A rule maps a tensor of a file to a parameter:

  Rule('blocks.{i}.norm.weight', 'blocks_{i}/norm/scale')
  Rule('blocks.{layer}.q.weight', 'layers/q/kernel', (1, 0))

`{name}` matches one piece of a name (no dot, no slash) and has the same value
in source and target. A placeholder that only the source has is a layer
number: those tensors are stacked on a new leading axis, in order.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from ttt_jax.checkpoints import train_state
from ttt_jax.convert import lazy_params
from ttt_jax.convert import safetensors_reader
from ttt_jax.runtime import files

_PLACEHOLDER = re.compile(r'\{(\w+)\}')
# Names that wrappers of PyTorch put before those of the wrapped module.
_OUTER = re.compile(r'(?:(?:module|model)\.)+')
_INNER = re.compile(
  r'(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)

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


def unwrap(key: str) -> str:
  """Returns a key without the names of wrappers, for example 'module.'."""
  key = _INNER.sub('', key)
  return key[found.end() :] if (found := _OUTER.match(key)) else key


def import_params(
  rules: Sequence[Rule],
  tensors: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  name: str,
  *,
  rename: Callable[[str], str | None] = lambda key: key,
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
    rename: Key without wrappers -> key in the rules, or None to ignore the
      tensor.
    dtype: Type of the parameters; None keeps the type of the tensors.
    sharding: Sharding of each parameter; None returns numpy arrays,
      `lazy_params.ABSTRACT` returns the checked `Parameter`s in their own
      types.

  Raises:
    ValueError: keys without a parameter, parameters without a tensor or with
      several that differ, types that are not floats, or shapes that differ:
      all in one message.
  """
  flat = _match_tensors(rules, tensors, shapes, name, rename)
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
  rename: Callable[[str], str | None],
) -> dict[str, lazy_params.Parameter]:
  """Returns path -> parameter, checked but not read; see `import_params`."""
  # Path -> layer -> (key, rule, tensor); problems are (name, reason).
  found: dict[str, dict[int, tuple[str, Rule, Any]]] = {}
  problems: list[tuple[str, str]] = []
  for key, tensor in tensors.items():
    known = rename(unwrap(key))
    if known is None:
      continue
    rule, values = _find_rule(rules, known)
    if rule is None:
      problems.append((key, 'is not known'))
      continue
    path = rule.target.format(**values)
    if path not in shapes:
      problems.append((key, 'has no place in the model'))
      continue
    if not jnp.issubdtype(_dtype(tensor), jnp.floating):
      problems.append(
        (
          key,
          f'has type {tensor.dtype}, weights must have one of float32,'
          ' bfloat16, float16, float64',
        )
      )
    layers = found.setdefault(path, {})
    layer = int(values[rule.layer]) if rule.layer else _UNSTACKED
    if layer not in layers:
      layers[layer] = key, rule, tensor
    elif not safetensors_reader.is_equal(layers[layer][2], tensor):
      problems.append(
        (key, f'and {layers[layer][0]} are one parameter, but differ')
      )
  for path, shape in shapes.items():
    if path not in found:
      problems.append((path, f'{tuple(shape)} is missing'))
    elif reason := _describe_misfit(found[path], tuple(shape)):
      problems.append((path, reason))
  if problems:
    # The first of each kind first.
    counts = collections.Counter()
    ranks = {}
    for problem in problems:
      ranks[problem] = counts[problem[1]]
      counts[problem[1]] += 1
    problems.sort(key=ranks.__getitem__)
    raise ValueError(
      f'{name} does not fit its config, {len(problems)} problem(s)'
      f'{_describe_names([subject for subject, _ in problems], tensors)}:'
      f'{safetensors_reader.list_problems([" ".join(p) for p in problems])}'
    )
  return {
    path: lazy_params.Parameter(
      shape=tuple(shape),
      dtype=functools.reduce(
        jnp.promote_types, (_dtype(t) for _, _, t in found[path].values())
      ),
      parts=tuple(found[path][i][1:] for i in sorted(found[path])),
      is_stacked=_UNSTACKED not in found[path],
    )
    for path, shape in shapes.items()
  }


def _find_rule(
  rules: Sequence[Rule], key: str
) -> tuple[Rule | None, dict[str, str]]:
  """Returns the first rule for a key, with the values of its placeholders."""
  for rule in rules:
    values = _match(rule.source, key)
    if values is not None and (
      rule.layer is None
      or re.fullmatch('0|[1-9][0-9]{0,5}', values[rule.layer])
    ):
      return rule, values
  return None, {}


def _describe_names(names: Sequence[str], keys: Mapping[str, Any]) -> str:
  """Returns the common part of the names in problems, for a message."""
  if keys.keys() <= {*names}:  # An unknown prefix, perhaps.
    names = [*keys]
  prefix = re.sub(r'[^./]*$', '', os.path.commonprefix(names))
  adapter = (
    ', of a LoRA or another adapter: load it in diffusers, call fuse_lora and'
    ' save_pretrained, and name that folder'
    if any('lora_' in name for name in names)
    else ''
  )
  common = f', names begin with {prefix!r}' if prefix and len(names) > 1 else ''
  return common + adapter


def _dtype(tensor: Any) -> np.dtype:
  """Returns the type of a tensor, uint8 if numpy does not have it."""
  return np.dtype(np.uint8 if isinstance(tensor.dtype, str) else tensor.dtype)


def _describe_misfit(
  layers: Mapping[int, tuple[str, Rule, Any]], shape: tuple[int, ...]
) -> str:
  """Returns why the tensors of `layers` do not form a parameter, if so."""
  is_stacked, numbers = _UNSTACKED not in layers, sorted(layers)
  if is_stacked and numbers != list(range(len(numbers))):
    absent = sorted(set(range(numbers[-1])) - set(numbers))
    return f'lacks the layers {files.first_ten([*map(str, absent)])}'
  inner = shape[1:] if is_stacked else shape
  # An array with that shape that takes no memory.
  empty = lambda tensor: np.broadcast_to(np.float32(0), tensor.shape)
  found = {
    rule.read(empty(tensor), inner).shape for _, rule, tensor in layers.values()
  }
  if len(found) > 1:
    return 'has layers that differ in shape'
  actual = found.pop()
  if is_stacked and actual == inner and len(numbers) != shape[0]:
    return f'has {len(numbers)} layers, the config requires {shape[0]}'
  if is_stacked:
    actual = (len(numbers), *actual)
  if actual != shape:
    return f'has shape {actual}, the config requires {shape}'
  return ''


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
