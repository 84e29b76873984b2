"""Writes a vocabulary for CLIP's tokenizer.

Each word of the captions is a token. Other words are spelled letter by letter.
"""

from __future__ import annotations

import json
import pathlib
import string

from examples.shapes import captions
from ttt_jax.encoders import clip_tokenizer

_ENDING = '</w>'
LENGTH = 24  # tokens per text


def _merges() -> list[tuple[str, str]]:
  """Returns the merges of letters to words, from the left, without repeats."""
  out = {}
  for word in captions.words():
    pieces = [*word[:-1], word[-1] + _ENDING]
    left = pieces[0]
    for right in pieces[1:]:
      out[left, right] = None
      left += right
  return list(out)


def write_tokenizer(folder: pathlib.Path) -> int:
  """Writes the tokenizer in transformers' layout, and returns its size."""
  merges = _merges()
  letters = [*string.ascii_lowercase]
  tokens = [*letters, *(n + _ENDING for n in letters)]
  tokens += [''.join(pair) for pair in merges]
  tokens += [clip_tokenizer.START, clip_tokenizer.END]
  folder.mkdir(parents=True, exist_ok=True)

  def write(name, content):
    (folder / name).write_text(json.dumps(content, indent=1) + '\n')

  write(clip_tokenizer.VOCABULARY, {t: i for i, t in enumerate(tokens)})
  lines = ['#version: 0.2', *(' '.join(pair) for pair in merges)]
  (folder / clip_tokenizer.MERGES).write_text('\n'.join(lines) + '\n')
  start, end = clip_tokenizer.START, clip_tokenizer.END
  special = dict(bos_token=start, eos_token=end, pad_token=end, unk_token=end)
  write('special_tokens_map.json', special)
  write(
    'tokenizer_config.json',
    dict(
      special,
      tokenizer_class='CLIPTokenizer',
      model_max_length=LENGTH,
    ),
  )
  return len(tokens)
