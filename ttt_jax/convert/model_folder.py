"""Finds the folder of a model, and recognizes other things that a path can be.

`describe` explains why a path is not such a folder: an adapter, a checkpoint
in one file, another level of a download, a model of another kind.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
from typing import Any

import safetensors

from ttt_jax.runtime import files
from ttt_jax.runtime import paths

CONFIG = 'config.json'
INDEX = 'model_index.json'

# Beginning of a class -> the model that has it; the first one counts.
_OTHERS = {
  'StableDiffusionXL': 'Stable Diffusion XL',
  'CLIPTextModelWithProjection': 'Stable Diffusion XL or 3',
  'StableDiffusion3': 'Stable Diffusion 3',
  'SD3': 'Stable Diffusion 3',
  'StableVideoDiffusion': 'Stable Video Diffusion',
  'UNetSpatioTemporal': 'Stable Video Diffusion',
  'TemporalDecoder': 'Stable Video Diffusion',
  'StableCascade': 'Stable Cascade',
  'Flux': 'Flux',
  'Wan': 'Wan',
  'UMT5': 'Wan',
  'HunyuanVideo': 'HunyuanVideo',
  'Hunyuan': 'Hunyuan-DiT',
  'LTX': 'LTX-Video',
  'Mochi': 'Mochi',
  'Cosmos': 'Cosmos',
  'Allegro': 'Allegro',
  'Latte': 'Latte',
  'CogVideoXImageToVideo': 'CogVideoX, image to video',
  'CogView': 'CogView',
  'Qwen': 'Qwen',
  'ZImage': 'Z-Image',
  'Lumina': 'Lumina',
  'Sana': 'Sana',
  'PixArt': 'PixArt',
  'AuraFlow': 'AuraFlow',
  'Chroma': 'Chroma',
  'Kandinsky': 'Kandinsky',
  'AnimateDiff': 'AnimateDiff',
  'UNetMotion': 'AnimateDiff',
  'MotionAdapter': 'AnimateDiff',
  'TextToVideo': 'ModelScope, text to video',
  'UNet3DCondition': 'ModelScope, text to video',
  'ControlNet': 'a ControlNet',
  'AutoencoderTiny': 'a small autoencoder for previews',
}
_ADAPTER_FILES = re.compile(
  r'(adapter_(config|model)|pytorch_lora_weights|.*\blora\b.*)'
  r'\.(json|safetensors|bin)',
  re.IGNORECASE,
)
PICKLES = '.bin', '.pt', '.pth', '.ckpt', '.pkl'
_WEIGHTS = '.safetensors', '.gguf', *PICKLES
_HUB_ID = re.compile(r'(?:https?://huggingface\.co/)?([\w-][\w.-]*/[\w.-]+)/?')
# Files of a folder that are looked at, at most.
_LIMIT = 1000

_ADAPTER = (
  'a LoRA or another adapter, not a complete model: load its base model in'
  ' diffusers, call load_lora_weights, fuse_lora and save_pretrained, and name'
  ' that folder'
)
_SINGLE_FILE = (
  'a checkpoint in one file: load it with from_single_file of diffusers, call'
  ' save_pretrained, and name that folder'
)
_PICKLE = (
  'a pickled checkpoint, which can run code and is not opened: load it in'
  ' diffusers or transformers, call save_pretrained, and name that folder'
)
_GGUF = (
  'a GGUF file, whose weights are quantized; download the model as'
  ' save_pretrained writes it, in safetensors'
)


def find_part(
  folder: str | os.PathLike[str], part: str, supported: str = ''
) -> pathlib.Path:
  """Returns the folder of a part of a model, which contains `config.json`.

  Args:
    folder: Folder of the part, or of the complete model.
    part: Name of the part, such as 'transformer', 'unet' or 'vae'.
    supported: Models that have such a part, for messages.

  Raises:
    FileNotFoundError: neither folder contains the part.
    ValueError: the folder contains a model that is not supported.
  """
  folder = pathlib.Path(folder)
  check_pipeline(folder, supported)
  for path in (folder, folder / part):
    if (path / CONFIG).is_file():
      return path
  raise FileNotFoundError(
    f'{folder} has no {part}: no {CONFIG} in it or in {part}/'
    + explain(folder, part)
  )


def resolve(folder: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the folder that a path names, see `paths.resolve`.

  Raises:
    FileNotFoundError: it does not exist; the message names what it may be
      instead.
  """
  try:
    return paths.resolve(folder)
  except FileNotFoundError as e:
    if os.fspath(folder).startswith(paths.PACKAGE):
      raise
    raise FileNotFoundError(describe(folder)) from e


def check_pipeline(folder: pathlib.Path, supported: str = '') -> None:
  """Raises ValueError if a complete model is known not to be supported."""
  name = _class(folder / INDEX)
  other = title(name)
  if other:
    raise ValueError(
      f'{folder} is {other} ({name})' + (supported and f': {supported}')
    )


def title(class_name: Any) -> str:
  """Returns the model that has a class, '' if it may be a supported one."""
  text = str(class_name).removeprefix('AutoencoderKL')
  return next((_OTHERS[key] for key in _OTHERS if text.startswith(key)), '')


def explain(path: str | os.PathLike[str], part: str = '') -> str:
  """Returns '; ' and the text of `describe`, or a general hint."""
  return '; ' + (
    describe(path, part)
    or 'name a folder as save_pretrained of diffusers or transformers writes it'
  )


def describe(path: str | os.PathLike[str], part: str = '') -> str:
  """Returns a description of a path that is not a model, and a remedy.

  Args:
    path: Path that a user gave.
    part: Name of the part that is required; '' is any.

  Returns:
    One line; '' if nothing is known.
  """
  if paths.is_remote(path) and not _HUB_ID.fullmatch(os.fspath(path)):
    return ''
  with contextlib.suppress(OSError):
    path = pathlib.Path(path)
    if path.is_dir():
      return _describe_folder(path, part)
    if path.is_file():
      return _describe_file(path)
    return _describe_missing(path)
  return ''


def _describe_missing(path: pathlib.Path) -> str:
  for link in (path, *path.parents):
    if link.is_symlink() and not link.exists():
      return (
        f'{link} is a link to {os.readlink(link)}, which does not exist:'
        ' download the model again'
      )
  text = re.sub(r'^(https?):/(?=[^/])', r'\1://', os.fspath(path))
  name = _HUB_ID.fullmatch(text)
  if name and not path.parent.exists():
    name = name[1]
    folder = name.rpartition('/')[2]
    return (
      f'{path} is not a folder here; if it is a model of the Hugging Face hub,'
      f' run hf download {name} --local-dir {folder} and name the folder'
      f' {folder}'
    )
  return f'{path} does not exist'


def _describe_file(path: pathlib.Path) -> str:
  damage = describe_damage(path)
  if damage:
    return f'it {damage}'
  if path.name in (CONFIG, INDEX) or path.name.endswith('.index.json'):
    return f'it is a file of a model: name its folder, {path.parent}'
  if path.suffix == '.gguf':
    return f'it is {_GGUF}'
  if path.suffix in PICKLES:
    return f'it is {_PICKLE}'
  if path.suffix == '.safetensors':
    if _is_adapter(path):
      return f'it is {_ADAPTER}'
    if (path.parent / CONFIG).is_file():
      return f'it is a file of a model: name its folder, {path.parent}'
    return f'it is {_SINGLE_FILE}'
  return 'it is a file: name the folder of a model'


def _describe_folder(folder: pathlib.Path, part: str) -> str:
  root = next(
    (p for p in (folder, *folder.absolute().parents[:1]) if _is_cached(p)), None
  )
  if root is not None:
    found = list(_snapshots(root))
    if found:
      return (
        'it is a folder of the cache of Hugging Face: name the folder of its'
        f' model, {found[0]}'
      )
    return (
      'it is a folder of the cache of Hugging Face without a complete snapshot:'
      ' download the model again'
    )
  cached = [p for p in _children(folder) if _is_cached(p)]
  if cached:
    found = [path for p in cached for path in _snapshots(p)]
    return (
      'it is the cache of Hugging Face: name the folder of one model, for'
      f' example {(found or cached)[0]}'
    )
  names = sorted(p.name for p in _children(folder))
  if not names:
    return 'the folder is empty'
  if unfinished := describe_download(folder):
    return unfinished
  adapters = [name for name in names if _ADAPTER_FILES.fullmatch(name)]
  if adapters and CONFIG not in names:
    return f'{adapters[0]} is {_ADAPTER}'
  if (folder / INDEX).is_file():
    parts = [p.name for p in _children(folder) if p.is_dir()]
    return (
      f'it is a {_class(folder / INDEX) or "model"} with'
      f' {", ".join(sorted(parts)) or "no parts"}'
      f'{f", but no {part}" if part else ""}'
    )
  levels = [
    p
    for p in _children(folder)
    if (p / INDEX).is_file() or (p / CONFIG).is_file()
  ]
  if levels:
    complete = [p for p in levels if (p / INDEX).is_file()]
    listed = files.first_ten(sorted(map(str, complete or levels)))
    return f'the model is one level below: name {listed}'
  parent = folder.absolute().parent
  if (parent / INDEX).is_file():
    return f'it is a part of the model in {parent}: name that folder'
  dead = [p for p in _children(folder) if p.is_symlink() and not p.exists()]
  if dead:
    return _describe_missing(dead[0])
  for name in names:
    if name.startswith(('model', 'diffusion_pytorch_model')) and name.endswith(
      '.safetensors'
    ):
      return f'it has {name}, but no {CONFIG}: copy it, too'
  for name in names:
    if name.endswith(_WEIGHTS):
      return f'in it, {name}: {_describe_file(folder / name)}'
  return ''


def describe_download(folder: pathlib.Path) -> str:
  """Returns that a download has not ended, '' if that is not known."""
  patterns = ['*.incomplete']
  # Above a part: the folder of the model, or that of a cache.
  for path in (folder, *folder.absolute().parents[:3]):
    patterns += [
      'blobs/*.incomplete',
      '.cache/huggingface/download/**/*.incomplete',
    ]
    for pattern in patterns:
      for found in path.glob(pattern):
        return f'the download is not complete ({found}): run it again'
    patterns = []
  return ''


def describe_damage(path: pathlib.Path) -> str:
  """Returns the damage of a file of data, '' if it may be intact."""
  with open(path, 'rb') as file:
    start = file.read(512).lstrip()
  if not start:
    return 'is empty: download it again'
  if files.is_lfs_pointer(path):
    return 'is a pointer of Git LFS, not the file: run git lfs pull'
  if start[:200].lower().startswith((b'<!doctype', b'<html')):
    return 'is a web page, not the file: download it again'
  if path.suffix == '.safetensors' and start.startswith((b'PK', b'\x80')):
    return f'is {_PICKLE}'
  if path.suffix == '.safetensors' and start.startswith(b'GGUF'):
    return f'is {_GGUF}'
  return ''


def _is_adapter(path: pathlib.Path) -> bool:
  """Returns whether a safetensors file contains low-rank updates."""
  try:
    with safetensors.safe_open(path, 'numpy') as file:
      return any('lora' in key.lower() for key in file.keys())
  except (safetensors.SafetensorError, ValueError, OSError):
    return False


def _is_cached(folder: pathlib.Path) -> bool:
  """Returns whether a folder is one of a cache: models--ORG--NAME."""
  return folder.name.startswith('models--') and (folder / 'snapshots').is_dir()


def _snapshots(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the snapshots that contain a model, that of main first."""
  with contextlib.suppress(OSError, UnicodeDecodeError):
    main = root / 'snapshots' / (root / 'refs/main').read_text().strip()
    if _is_model(main):
      yield main
  yield from filter(_is_model, _children(root / 'snapshots'))


def _is_model(folder: pathlib.Path) -> bool:
  return any((folder / name).is_file() for name in (INDEX, CONFIG))


def _children(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the entries of a folder, sorted, at most `_LIMIT` of many."""
  with os.scandir(folder) as entries:
    found = [folder / entry.name for entry, _ in zip(entries, range(_LIMIT))]
  return sorted(found)


def _class(path: pathlib.Path) -> str:
  """Returns the class that a model_index.json contains, '' if there is none."""
  if not path.is_file():
    return ''
  found = files.read_json(path)
  return str(found.get('_class_name', '')) if isinstance(found, dict) else ''
