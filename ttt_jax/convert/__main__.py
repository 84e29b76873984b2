"""Converts models between the layout of Hugging Face and ours.

    ttt-jax convert --source=CogVideoX-5b --out=DIR
    ttt-jax convert --source=WORKDIR --out=DIR --dtype=bfloat16

The contents of --source decide the direction:

  A folder as `save_pretrained` writes it (config.json and safetensors, one
  file or several with an index) becomes a converted folder: config.json and
  an Orbax checkpoint. Supported are transformers (CogVideoX-2B, -5B), their
  autoencoder, T5 v1.1 encoders, and U-Net, autoencoder and CLIP text encoder
  of Stable Diffusion 1.x and 2.x. Of a complete model every part is
  converted.

  A converted folder becomes the original again, bit by bit.

  The folder of a training run (--workdir of ttt_jax.train, or a stage in it)
  becomes a transformer or U-Net for diffusers, with TTT layers or temporal
  attention in a second file.

Training starts from either layout: --config.init_from=DIR. Existing folders
are not replaced, and --out appears once it is complete. Memory holds about
three times the largest parameter, an estimated 9 GB for CogVideoX-5B in
bfloat16; a training run is loaded completely.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
import pathlib
import time
from typing import Any

from absl import flags
import jax
from rich import console as rich_console
from rich import table as rich_table

from ttt_jax import common_flags
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

_SOURCE = flags.DEFINE_string(
  'source', None, 'Folder to convert.', required=True
)
_OUT = flags.DEFINE_string('out', None, 'Folder to create.', required=True)
_DTYPE = flags.DEFINE_enum(
  'dtype',
  None,
  ['float32', 'bfloat16', 'float16'],
  'Type of the converted weights; default: that of the source.',
)
_MIXER = flags.DEFINE_string(
  'mixer',
  None,
  'Mixer (docs/mixers.md) to add to a transformer with initial weights; none'
  ' omits that of the source. Training does not need it: it adds its own.',
)
_MINI_BATCH = cli.define(
  'mini_batch',
  None,
  'Tokens per mini-batch of new mixer layers; default: 64.',
  schema.PositiveInt,
)
_SEED = cli.define('seed', 0, 'Seed of new mixer layers.', schema.Seed)
_EMA = common_flags.ema()
_SHARD_GB = cli.define(
  'shard_gb',
  10.0,
  'Largest safetensors file in GB; larger models become several files.',
  schema.PositiveFloat,
)


def main(_: Sequence[str]) -> None:
  # Conversion does not need an accelerator.
  jax.config.update('jax_platforms', 'cpu')
  from ttt_jax.convert import model_folder
  from ttt_jax.convert import registry

  source, out = (pathlib.Path(f.value).resolve() for f in (_SOURCE, _OUT))
  if not source.is_dir():
    raise FileNotFoundError(
      f'--source is {_SOURCE.value}, not the folder of a model or of a training'
      f' run: {model_folder.describe(_SOURCE.value)}'
    )
  if out == source or source in out.parents:
    raise ValueError(f'--out {out} is inside --source; choose another folder')
  files.check_writable(out, folder=True)
  start = time.perf_counter()
  with files.atomic_folder(out) as temporary:
    parts = registry.find_parts(source)
    _check_options(parts)
    for name, part in parts.items():
      _convert(part, temporary / name)
  print(f'wrote {out} in {time.perf_counter() - start:.1f} s')


def _check_options(parts: dict[str, pathlib.Path]) -> None:
  """Raises ValueError for flags that apply to none of the parts."""
  from ttt_jax.convert import native
  from ttt_jax.convert import registry

  given = [f'--{f.name}' for f in (_MIXER, _MINI_BATCH) if f.value is not None]
  if given and not any(
    not native.is_checkpoint(part)
    and not registry.is_training_run(part)
    and registry.detect_format(part).name == 'transformer'
    for part in parts.values()
  ):
    raise ValueError(
      f'{given[0]} is only for transformers as save_pretrained writes them;'
      ' omit it'
    )


def _convert(source: pathlib.Path, out: pathlib.Path) -> None:
  """Converts one model."""
  from ttt_jax.convert import lazy_params
  from ttt_jax.convert import native
  from ttt_jax.convert import registry

  if registry.is_training_run(source):
    config, params = registry.load_run(source, _EMA.value)
  elif native.is_checkpoint(source):
    found = native.read(source)
    config = registry.native_config(found)
    params = found.params(sharding=lazy_params.ABSTRACT)
  else:
    _import(source, out)
    return
  model = registry.format_for_config(config)
  _print_parameters(f'{model.name}, for Hugging Face', params)
  model.save(
    config,
    params,
    out,
    dtype=_DTYPE.value,
    shard_bytes=int(_SHARD_GB.value * 10**9),
  )


def _import(source: pathlib.Path, out: pathlib.Path) -> None:
  """Converts a model from the layout of Hugging Face to ours."""
  from ttt_jax.convert import lazy_params
  from ttt_jax.convert import native
  from ttt_jax.convert import registry
  from ttt_jax.runtime import progress

  model = registry.detect_format(source)
  options: dict[str, Any] = {}
  if model.name == 'transformer':
    options = dict(
      mixer=_MIXER.value, mini_batch=_MINI_BATCH.value, seed=_SEED.value
    )
  config, params = model.load(source, sharding=lazy_params.ABSTRACT, **options)
  _print_parameters(f'{model.name}, from {source.name}', params)
  count = len(jax.tree.leaves(params))
  with progress.Bar(f'writing {model.name}', count) as bar:
    native.write(
      out,
      model.name,
      dataclasses.asdict(config),
      params,
      dtype=_DTYPE.value,
      on_parameter=lambda _: bar.advance(),
    )


def _print_parameters(title: str, params: Any) -> None:
  """Prints the number of parameters by group and type."""
  from ttt_jax.checkpoints import train_state

  groups = {}
  for path, leaf in train_state.flatten(params).items():
    depth = 1
    if path.startswith('layers/'):
      depth = 3 if path.startswith('layers/seq/') else 2
    name = '/'.join(path.split('/')[:depth])
    size = math.prod(leaf.shape)
    groups.setdefault((name, str(leaf.dtype)), []).append(size)
  table = rich_table.Table(title=title)
  table.add_column('group')
  table.add_column('type')
  table.add_column('parameters', justify='right')
  for (name, dtype), sizes in groups.items():
    table.add_row(name, dtype, f'{sum(sizes):,}')
  total = sum(sum(sizes) for sizes in groups.values())
  table.add_row('all', '', f'{total:,}')
  rich_console.Console().print(table)


if __name__ == '__main__':
  cli.run(main)
