"""Converts models between the layout of Hugging Face and ours.

    python -m ttt_jax.convert --source=CogVideoX-5b --out=DIR

--source is what is there, and says which way it goes:

  a folder as `save_pretrained` writes it (config.json and safetensors, one
  file or several with an index) becomes a folder of ours, config.json and an
  Orbax tree. Transformers (CogVideoX-2B, -5B), their autoencoder and T5 v1.1
  encoders are known, and U-Net, autoencoder and CLIP text encoder of Stable
  Diffusion 1.x and 2.x; of a whole model each of its folders is converted.

  a folder of ours becomes what it was made from, bit by bit.

  the folder of a training run (--workdir of ttt_jax.train, or a stage in it):
  its transformer or U-Net becomes a folder for diffusers, TTT layers or
  attention over time beside.

Training starts from either form: --config.init_from=DIR. Nothing is replaced,
and --out appears when all of it is there. Memory holds about three times the
largest parameter, an estimated 9 GB for CogVideoX-5B in bfloat16; a training
run is read whole.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil
import time
from typing import Any

from absl import flags
from flax import traverse_util
import jax
from rich import console as rich_console
from rich import table as rich_table

from ttt_jax.runtime import cli

_SOURCE = flags.DEFINE_string(
  'source', None, 'Folder that is converted.', required=True
)
_OUT = flags.DEFINE_string('out', None, 'Folder that is made.', required=True)
_DTYPE = flags.DEFINE_enum(
  'dtype',
  None,
  ['float32', 'bfloat16', 'float16'],
  'Type of the new weights; that of the old ones if not given.',
)
_MIXER = flags.DEFINE_enum(
  'mixer',
  None,
  ['none', 'ttt_mlp', 'ttt_linear'],
  'Adds fresh TTT layers to a transformer, or leaves them away (none). Not'
  ' needed for training, which adds its own.',
)
_MINI_BATCH = flags.DEFINE_integer(
  'mini_batch', None, 'Tokens that share a step of fresh TTT layers; 64.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of fresh TTT layers.')
_EMA = flags.DEFINE_bool('ema', True, 'The averaged weights of a training run.')
_SHARD_GB = flags.DEFINE_float(
  'shard_gb', 10.0, 'Largest safetensors file in GB; more are split.'
)


def main(_) -> None:
  # Nothing here needs an accelerator.
  jax.config.update('jax_platforms', 'cpu')
  from ttt_jax.convert import native
  from ttt_jax.convert import registry

  source, out = (pathlib.Path(f.value).resolve() for f in (_SOURCE, _OUT))
  if not source.is_dir():
    raise FileNotFoundError(f'--source is {source}; there is no such folder')
  if out == source or source in out.parents:
    raise ValueError(f'--out {out} is inside of --source; name another folder')
  if _SHARD_GB.value <= 0:
    raise ValueError(f'--shard_gb is {_SHARD_GB.value}; it must be above 0')
  native.check_free(out)
  start = time.perf_counter()
  parts = registry.parts_of(source)
  _check_options(parts, registry, native)
  half = out.with_name(out.name + '.tmp')
  shutil.rmtree(half, ignore_errors=True)
  half.mkdir(parents=True)
  try:
    for name, part in parts.items():
      _convert(part, half / name, registry, native)
    half.rename(out)
  finally:
    shutil.rmtree(half, ignore_errors=True)
  print(f'wrote {out} in {time.perf_counter() - start:.1f} s')


def _check_options(parts, registry, native) -> None:
  """Raises ValueError for flags that nothing in `parts` could obey."""
  given = [f'--{f.name}' for f in (_MIXER, _MINI_BATCH) if f.value is not None]
  if given and not any(
    not native.is_tree(part)
    and not registry.is_run(part)
    and registry.of_folder(part).name == 'transformer'
    for part in parts.values()
  ):
    raise ValueError(
      f'{given[0]} is only for transformers as save_pretrained writes them;'
      ' leave it away'
    )


def _convert(source: pathlib.Path, out: pathlib.Path, registry, native) -> None:
  """Converts one model."""
  if registry.is_run(source):
    config, params = registry.load_run(source, _EMA.value)
    kind = registry.of_config(config)
  elif native.is_tree(source):
    found = native.read(source)
    kind = registry.KINDS[found.model]
    config = registry.config_of(found)
    params = found.params(sharding=registry.UNREAD)
  else:
    _import(registry.of_folder(source), source, out, registry, native)
    return
  _report(f'{kind.name}, for Hugging Face', params)
  kind.save(
    config=config,
    params=params,
    folder=out,
    dtype=_DTYPE.value,
    shard_bytes=int(_SHARD_GB.value * 10**9),
  )


def _import(kind, source, out, registry, native) -> None:
  """Makes a folder of ours."""
  from ttt_jax.runtime import progress

  options = {}
  if kind.name == 'transformer':
    options = dict(
      mixer=_MIXER.value, mini_batch=_MINI_BATCH.value, seed=_SEED.value
    )
  config, params = kind.load(
    source, dtype=None, sharding=registry.UNREAD, **options
  )
  _report(f'{kind.name}, from {source.name}', params)
  leaves = jax.tree.leaves(params)
  with progress.Bar(f'writing {kind.name}', len(leaves)) as bar:
    native.write(
      out,
      kind.name,
      dataclasses.asdict(config),
      params,
      dtype=_DTYPE.value,
      on_leaf=lambda _: bar.advance(),
    )


def _report(title: str, params: Any) -> None:
  """Prints how many parameters of which type are in which group."""
  groups = {}
  for path, leaf in traverse_util.flatten_dict(params).items():
    depth = 3 if path[:2] == ('layers', 'seq') else 2
    name = '/'.join(path[:depth] if path[0] == 'layers' else path[:1])
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
