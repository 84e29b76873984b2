"""Compatibility of a config with the checkpoints in a folder."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from ttt_jax.models import dit
from ttt_jax.models.dit import mixers
from ttt_jax.runtime import files

# Fields that may change between two runs of one stage: they alter neither the
# network nor a finished step. Other checks compare the contents of folders.
FREE_FIELDS = (
  'steps',
  'log_every',
  'diagnose_every',
  'checkpoint_every',
  'keep_last',
  'keep_every',
  'profile',
  'sample_every',
  'mesh',
  'microbatches',
  'previous_stage',
  'init_from',
  'scheduler',
  'video',
  'edits',
  'extra',
  'sample',
  'data.folder',
  'data.storyboards',
  'data.videos',
  'data.stride',
  'vae.folder',
  'text.folder',
  'text.cache',
  'text.truncate',
  'model.remat',
  'model.implementation',
  'model.attention',
  'model.attention_frames',
)

# Patterns of parameter groups in configs of earlier versions, and those of
# today that match the same parameters.
_RENAMED = {
  r'layers/seq/ttt/[qkvo]/kernel': r'layers/seq/(?!attn/)\w+/[a-z]/kernel',
  r'layers/seq/(ttt|gates)/.*': r'layers/seq/(?!attn/).*',
}


def _fields(config: Any, prefix: str = '') -> dict[str, Any]:
  """Returns '.'-joined name -> value of all fields."""
  if isinstance(config, list) and len(config) > 1:
    config = dict(enumerate(config))
  if isinstance(config, Mapping) and config:
    return {
      k: v
      for name, value in config.items()
      for k, v in _fields(value, f'{prefix}{name}.').items()
    }
  return {prefix[:-1]: config}


def _unused_fields(fields: Mapping[str, Any]) -> set[str]:
  """Returns the fields of other mixers than that of a transformer's config."""
  mixer = mixers.MIXERS.get(fields.get('model.mixer', ''))
  if mixer is None:
    return set()
  known = {field for other in mixers.MIXERS.values() for field in other.fields}
  return {f'model.{field}' for field in known - {*mixer.fields}}


def _show(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:77]}...'


def check_config(
  saved: Mapping[str, Any], config: Mapping[str, Any], folder: os.PathLike[str]
) -> None:
  """Raises ValueError if a config does not continue the run in `folder`.

  Args:
    saved: Config of the checkpoints.
    config: Config of this run.
    folder: Folder of the stage, for the message.
  """
  old, new = _fields(saved), _fields(files.to_json_types(config))
  added: dict[str, Any] = {
    f'model.{name}': value for name, value in dit.ADDED_FIELDS.items()
  }
  old = {k: v for k, v in added.items() if k in new} | old
  old |= {k: _RENAMED[v] for k, v in old.items() if v in [*_RENAMED]}
  names = (*FREE_FIELDS, *_unused_fields(new))
  free = lambda k: any(k == f or k.startswith(f + '.') for f in names)
  differ = [
    f'{k[:60]} = {_show(old.get(k))} there, {_show(new.get(k))} here'
    for k in dict.fromkeys([*new, *old])
    if not free(k) and old.get(k) != new.get(k)
  ]
  if differ:
    more = f' and {len(differ) - 3} more' if len(differ) > 3 else ''
    raise ValueError(
      f'{folder} belongs to another config: {"; ".join(differ[:3])}{more};'
      ' choose another --workdir or the saved values'
    )
