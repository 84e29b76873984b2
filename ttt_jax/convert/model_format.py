"""Folders of models in the layouts of diffusers and transformers.

A `ModelFormat` describes how one kind of model is stored: the fields of its
config.json, the rules for its tensors, the names of its files. `load` and
`save` are the same for all of them. The functions at the end check a
config.json against such descriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any

from ttt_jax.checkpoints import train_state
from ttt_jax.convert import init_missing
from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_folder
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert import safetensors_writer
from ttt_jax.runtime import files
from ttt_jax.runtime import schema


@dataclasses.dataclass(frozen=True)
class Extension:
  """Parameters that the published model lacks, stored in a file of their own.

  Other libraries ignore the file.

  Attributes:
    name: Name of the file without '.safetensors'.
    owns: Returns whether a '/'-joined path belongs to the extension.
    rules: config -> rules for the tensors of the file.
    init_params: (config, key) -> all parameters of a new model.
    fields: Config fields that are stored in `name`.json next to the file.
  """

  name: str
  owns: Callable[[str], bool]
  rules: Callable[[Any], Sequence[rules_lib.Rule]]
  init_params: init_missing.InitFn
  fields: tuple[str, ...] = ()

  def is_in(self, folder: pathlib.Path) -> bool:
    """Returns whether a folder contains the extension."""
    kind = 'json' if self.fields else 'safetensors'
    return (folder / f'{self.name}.{kind}').is_file()

  def save(
    self,
    config: Any,
    params: Mapping[str, Any],
    folder: pathlib.Path,
    dtype: Any,
  ) -> None:
    """Writes the extension's parameters and its config fields."""
    safetensors_writer.write_folder(
      folder,
      self.name,
      self.rules(config),
      params,
      dtype=dtype,
      shard_bytes=float('inf'),
    )
    if self.fields:
      files.write_json(
        {name: getattr(config, name) for name in self.fields},
        folder / f'{self.name}.json',
        indent=2,
      )


@dataclasses.dataclass(frozen=True)
class ModelFormat:
  """Description of a kind of model in a folder.

  Attributes:
    name: Name of the kind of model, as converted folders record it.
    part: Name of the model's folder within a complete model.
    config_class: Class of the config.
    class_names: Names of the published class in config.json.
    weights: Name of the weights file without '.safetensors'.
    config_from_json: (content, file name, **options) -> config.
    abstract_params: config -> nested `jax.ShapeDtypeStruct`s.
    rules: config -> rules for the tensors.
    config_to_json: config -> content of config.json; None if such models are
      only read.
    rename: Key in the file, without wrappers -> key in the rules, or None to
      ignore the tensor.
    supported: Models that have such a part, for messages.
    find: (folder, part) -> the folder that contains config.json.
    config_from_folder: (folder, **options) -> config, where config.json does
      not define all of it.
    extension: config -> parameters in a second file, or None.
  """

  name: str
  part: str
  config_class: type[Any]
  class_names: tuple[str, ...]
  weights: str
  config_from_json: Callable[..., Any]
  abstract_params: Callable[[Any], Any]
  rules: Callable[[Any], Sequence[rules_lib.Rule]]
  config_to_json: Callable[[Any], dict[str, Any]] | None = None
  rename: Callable[[str], str | None] = lambda key: key
  supported: str = ''
  config_from_folder: Callable[..., Any] | None = None
  extension: Callable[[Any], Extension | None] = lambda config: None

  def load_config(self, folder: str | os.PathLike[str], **options: Any) -> Any:
    """Returns the config of a model without reading its weights.

    Args:
      folder: Folder of the model, or of a complete model with such a part.
      **options: Options of the format's config.
    """
    folder = model_folder.find_part(folder, self.part, self.supported)
    if self.config_from_folder is not None:
      return self.config_from_folder(folder, **options)
    path = folder / 'config.json'
    return self.config_from_json(read_object(path), str(path), **options)

  def load(
    self,
    folder: str | os.PathLike[str],
    *,
    dtype: Any = None,
    sharding: lazy_params.Placement = None,
    seed: int = 0,
    fresh: bool = False,
    **options: Any,
  ) -> tuple[Any, dict[str, Any]]:
    """Loads a model.

    Args:
      folder: Folder with `config.json` and safetensors, one file or several
        with an index; or the folder of a complete model with such a part.
      dtype: Type of the parameters; None keeps the type in the files, and is
        float32 for parameters of a missing extension.
      sharding: Sharding of each parameter, for example
        `functools.partial(sharding.param_sharding, mesh)`: the host then
        holds one tensor at a time. None returns numpy arrays;
        `lazy_params.ABSTRACT` leaves the parameters in their files.
      seed: Seed of the parameters of a missing extension.
      fresh: Initialises the extension even if the folder contains one.
      **options: Options of the format's config.

    Returns:
      The config and the nested parameters.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the model is not supported, a file is truncated, or config
        and weights do not fit each other.
    """
    folder = model_folder.find_part(folder, self.part, self.supported)
    config = self.load_config(folder, **options)
    tensors = safetensors_reader.open_folder(folder, self.weights)
    _check_depth(config, tensors)
    shapes = self.parameter_shapes(config)
    extension, extra = self.extension(config), {}
    if extension is not None:
      extra = {p: s for p, s in shapes.items() if extension.owns(p)}
    params = rules_lib.import_params(
      self.rules(config),
      tensors,
      {path: shape for path, shape in shapes.items() if path not in extra},
      tensors.name,
      rename=self.rename,
      dtype=dtype,
      sharding=sharding,
    )
    if extension is None or not extra:
      return config, params
    if extension.is_in(folder) and not fresh:
      tensors = safetensors_reader.open_file(
        folder / f'{extension.name}.safetensors'
      )
      more = train_state.flatten(
        rules_lib.import_params(
          extension.rules(config),
          tensors,
          extra,
          tensors.name,
          dtype=dtype,
          sharding=sharding,
        )
      )
    else:
      more = init_missing.init_missing_params(
        extension.init_params, config, extra, seed, dtype, sharding
      )
    return config, train_state.unflatten(train_state.flatten(params) | more)

  def save(
    self,
    config: Any,
    params: Mapping[str, Any],
    folder: str | os.PathLike[str],
    *,
    dtype: Any = None,
    shard_bytes: float = safetensors_writer.SHARD_BYTES,
  ) -> None:
    """Writes a model as `load` reads it; config.json is written last.

    Args:
      config: Config of the model.
      params: Nested parameters: arrays, or objects with a shape, a dtype and
        a value for `np.asarray`.
      folder: Folder to write to, created if necessary.
      dtype: Type of the tensors; None keeps that of each parameter.
      shard_bytes: Largest file; larger models become several files with an
        index.

    Raises:
      FileExistsError: the folder contains a model.
      ValueError: the format cannot express the config.
    """
    if self.config_to_json is None:
      raise NotImplementedError(f'models of kind {self.name} are only read')
    folder = pathlib.Path(folder)
    content = self.config_to_json(config)
    safetensors_writer.check_free(folder, self.weights)
    flat = train_state.flatten(params)
    if (extension := self.extension(config)) is not None:
      safetensors_writer.check_free(folder, extension.name)
      extra = {p: flat.pop(p) for p in list(flat) if extension.owns(p)}
      if extra:
        extension.save(config, train_state.unflatten(extra), folder, dtype)
    safetensors_writer.write_folder(
      folder,
      self.weights,
      self.rules(config),
      train_state.unflatten(flat),
      dtype=dtype,
      shard_bytes=shard_bytes,
      config=content,
    )

  def parameter_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
    """Returns '/'-joined path -> shape of every parameter."""
    flat = train_state.flatten(self.abstract_params(config))
    return {path: leaf.shape for path, leaf in flat.items()}


def ignore(*prefixes: str) -> Callable[[str], str | None]:
  """Returns a `ModelFormat.rename` that drops keys with these prefixes."""
  return lambda key: None if key.startswith(prefixes) else key


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns the JSON object in a file.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file contains something else.
  """
  found = files.read_json(path, constants=True)
  if not isinstance(found, dict):
    raise ValueError(f'{path} does not contain a JSON object; copy it again')
  return found


def check_class(
  found: Mapping[str, Any], name: str, path: str, supported: str = ''
) -> None:
  """Raises ValueError unless a config.json is for the class `name`."""
  actual = found.get('_class_name', name)
  if actual != name:
    other = model_folder.title(actual)
    raise ValueError(
      f'{path} describes a {schema.show(actual)}: only {name} can be loaded'
      + (other and f', and this is {other}')
      + (supported and f'; {supported}')
    )


def check_fixed(
  found: Mapping[str, Any],
  fixed: Mapping[str, Any],
  path: str,
  *,
  required: bool = False,
) -> None:
  """Raises ValueError for options whose value is not the supported one.

  Args:
    found: Content of the file.
    fixed: Name -> the only supported value.
    path: Name of the file, for messages.
    required: An absent option is an error; else it has the supported value.
  """
  wrong = [
    f'{key} = {_show(found.get(key))}: only {value!r} is supported'
    for key, value in fixed.items()
    if found.get(key, None if required else value) != value
  ]
  if wrong:
    raise ValueError(f'{path} has {files.first_ten(wrong, "; ")}')


# Published name -> (our name, default); without a default the field is
# required.
REQUIRED: Any = dataclasses.MISSING
Fields = Mapping[str, tuple[str, Any]]


def read_fields(
  found: Mapping[str, Any],
  fields: Fields,
  path: str,
  kinds: Mapping[str, Any] | type[Any],
) -> dict[str, Any]:
  """Returns our name -> value of the fields in a config.json.

  Args:
    found: Content of the file.
    fields: Description of the fields.
    path: Name of the file, for messages.
    kinds: Our name -> kind of the value, see `schema.convert`; or the class of
      the config, whose annotations they are.

  Raises:
    ValueError: required fields are missing, or values are not of their kind.
  """
  if isinstance(kinds, type):
    kinds = schema.field_kinds(kinds)
  missing = [
    name
    for name, (_, default) in fields.items()
    if default is REQUIRED and name not in found
  ]
  if missing:
    raise ValueError(f'{path} lacks {", ".join(missing)}')
  out, problems = {}, []
  for name, (ours, default) in fields.items():
    try:
      out[ours] = schema.convert(found.get(name, default), kinds[ours], name)
    except ValueError as e:
      problems.append(str(e))
  if problems:
    raise ValueError(f'{path}: {files.first_ten(problems, "; ")}')
  return out


def write_fields(config: Any, fields: Fields) -> dict[str, Any]:
  """Returns the inverse of `read_fields`: published name -> value."""
  values = {name: getattr(config, ours) for name, (ours, _) in fields.items()}
  return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def construct(config_class: type[Any], path: str, **fields: Any) -> Any:
  """Returns a config; a ValueError names the file `path` first."""
  try:
    return config_class(**fields)
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e


def _show(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


def _check_depth(config: Any, tensors: safetensors_reader.Tensors) -> None:
  """Raises ValueError for more blocks than tensors, which would be traced."""
  for part in vars(config).values():
    if dataclasses.is_dataclass(part):
      _check_depth(part, tensors)
  blocks = getattr(config, 'num_layers', 1)
  if levels := getattr(config, 'block_out_channels', ()):
    blocks = len(levels) * config.layers_per_block
  if blocks > len(tensors):
    raise ValueError(
      f'{tensors.name} does not fit its config, which has {blocks} blocks: the'
      f' file has {len(tensors)} tensors'
    )
