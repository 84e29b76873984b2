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
import os
import pathlib
import re

from flax import traverse_util
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

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
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    what: str,
) -> dict:
  """Returns the nested parameters that a file's tensors make.

  Args:
    rules: the table; the first rule whose source fits a key is used.
    tensors: key -> array, as read.
    shapes: '/'-joined path -> shape of every parameter to be filled.
    what: the file's name, for messages.

  Raises:
    ValueError: keys without a place, parameters not filled, or shapes that
      differ: all of them in one message.
  """
  flat, layers, problems = {}, {}, []
  for key, tensor in tensors.items():
    for rule in rules:
      values = _match(rule.source, key)
      if values is None:
        continue
      path = rule.target.format(**values)
      if path not in shapes:
        problems.append(f'{key} has no place in the model')
      elif rule.layer:
        layers.setdefault(path, {})[int(values[rule.layer])] = rule.read(
            tensor, shapes[path][1:]
        )
      else:
        flat[path] = rule.read(tensor, shapes[path])
      break
    else:
      problems.append(f'{key} is not known')
  for path, parts in layers.items():
    if sorted(parts) != list(range(len(parts))):
      problems.append(f'layers {sorted(parts)} of {path} have gaps')
    elif len({part.shape for part in parts.values()}) > 1:
      problems.append(f'layers of {path} differ in shape')
    else:
      flat[path] = np.stack([parts[i] for i in range(len(parts))])
  gapped = set(layers) - set(flat)
  for path, shape in shapes.items():
    if path not in flat and path not in gapped:
      problems.append(f'{path} {tuple(shape)} is missing')
    elif path in flat and flat[path].shape != tuple(shape):
      problems.append(
          f'{path} has shape {flat[path].shape}, the config asks for'
          f' {tuple(shape)}'
      )
  if problems:
    raise ValueError(
        f'{what} does not fit its config, {len(problems)} problem(s): '
        + '; '.join(problems)
    )
  return traverse_util.unflatten_dict(flat, sep='/')


def to_source(rules: Sequence[Rule], params: Mapping) -> dict[str, np.ndarray]:
  """Returns key -> array for a file: the inverse of `from_source`."""
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
            (values | {rule.layer: str(i)}, part)
            for i, part in enumerate(value)
        ]
      written = [(names, rule.write(part)) for names, part in named]
      if any(part is None for _, part in written):
        continue
      for names, part in written:
        tensors[rule.source.format(**names)] = np.ascontiguousarray(part)
      break
    else:
      unknown.append(path)
  if unknown:
    raise ValueError(
        'no rule writes these parameters: ' + '; '.join(sorted(unknown))
    )
  return tensors


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns the tensors of a safetensors file, floats as float32.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is cut short or not safetensors.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'no weights at {path}: a safetensors file'
                            ' belongs there')
  try:
    tensors = safetensors_numpy.load_file(path)
  except safetensors.SafetensorError as e:
    raise ValueError(
        f'{path} is not a whole safetensors file ({e}): copy it again'
    ) from e
  return {k: np.asarray(v, np.float32) for k, v in tensors.items()}


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray]
) -> None:
  """Writes a safetensors file; a reader never sees half of it."""
  path = pathlib.Path(path)
  half = path.with_name(path.name + '.tmp')
  half.write_bytes(safetensors_numpy.save(dict(tensors)))
  half.replace(path)
