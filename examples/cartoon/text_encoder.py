"""Writes the text encoder of the cartoon's model, which needs no training.

    python -m examples.cartoon.text_encoder --out=DIR

The folder has the layout of transformers: a BERT with one token per word of
`words.VOCABULARY`, fixed random codes, and one block whose heads copy the codes
of the following words. So the state of a name contains the look that the text
gives it, as a state of a language model would, and the state of a name alone
contains no look.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib

from absl import flags
import jax
import numpy as np
import tokenizers
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers

from examples.cartoon import words
from ttt_jax import storyboard
from ttt_jax.convert import minilm as convert_minilm
from ttt_jax.models.text import minilm
from ttt_jax.runtime import cli
from ttt_jax.runtime import files

LENGTH = words.LENGTH + 4  # with [CLS], [SEP] and two scene tokens
_WORD_WIDTH = 64
_PERIOD = (LENGTH + 1) | 1  # of the codes of positions; odd
_FOLLOWING = 8  # words whose codes a state contains, one head for each
_COPY_WIDTH = 20
_WIDTH = (_PERIOD + 1) * _FOLLOWING  # a head holds a position's code
# Factor of attention's logits; only the position that is meant has a weight.
_SHARPNESS = 2.0
_SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[unused1]', '[unused2]')
_SCENE_TOKENS = (storyboard.START_SCENE, storyboard.END_SCENE)


def write(out: str | os.PathLike[str]) -> None:
  """Writes config.json, model.safetensors and tokenizer.json."""
  vocabulary = _SPECIAL + tuple(
    w for w in words.VOCABULARY if w not in _SCENE_TOKENS
  )
  tokenizer = tokenizers.Tokenizer(
    models.WordLevel(
      {word: i for i, word in enumerate(vocabulary)}, unk_token='[UNK]'
    )
  )
  tokenizer.normalizer = normalizers.Lowercase()
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  config = minilm.MiniLMConfig(
    vocab_size=len(vocabulary),
    width=_WIDTH,
    num_layers=1,
    num_heads=_FOLLOWING,
    mlp_dim=1,
    max_length=LENGTH,
    type_vocab_size=1,
  )
  params = _params(config)
  with files.atomic_folder(pathlib.Path(out)) as folder:
    convert_minilm.FORMAT.save(config, params, folder, dtype=np.float16)
    tokenizer.save(str(folder / 'tokenizer.json'))


def _params(config: minilm.MiniLMConfig) -> dict:
  """Returns the parameters.

  The features of a state are its word's code, its position's code, and the
  shorter codes of the following words; after the last one, the mean of all.
  """
  params = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, np.float32),
    minilm.abstract_params(config),
  )
  rng = np.random.default_rng(0)
  params['tokens']['embedding'][:, :_WORD_WIDTH] = rng.standard_normal(
    (config.vocab_size, _WORD_WIDTH)
  )
  positions = slice(_WORD_WIDTH, _WORD_WIDTH + _PERIOD - 1)
  params['positions']['embedding'][:, positions] = _position_codes(
    np.arange(config.max_length)
  )
  params['norm']['scale'][:] = 1
  block = params['layers']
  for name in ('attention_norm', 'mlp_norm'):
    block[name]['scale'][:] = 1
  shorten = rng.standard_normal((_WORD_WIDTH, _COPY_WIDTH)) / _WORD_WIDTH**0.5
  count = _PERIOD - 1
  for head in range(_FOLLOWING):
    shift = _shift(head + 1)
    block['query']['kernel'][0, positions, head, :count] = _SHARPNESS * shift
    block['key']['kernel'][0, positions, head, :count] = np.eye(count)
    block['value']['kernel'][0, :_WORD_WIDTH, head, :_COPY_WIDTH] = shorten
    start = positions.stop + head * _COPY_WIDTH
    block['out']['kernel'][
      0, head, :_COPY_WIDTH, start : start + _COPY_WIDTH
    ] = np.eye(_COPY_WIDTH)
  return params


def _position_codes(positions: np.ndarray) -> np.ndarray:
  """Returns cosines and sines of all frequencies but 0, [n, _PERIOD - 1].

  The product of two codes is (_PERIOD - 1) / 2 for the same position and -1 / 2
  for any other one.
  """
  frequencies = np.arange(1, _PERIOD // 2 + 1)
  angles = 2 * np.pi * np.outer(positions, frequencies) / _PERIOD
  return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def _shift(distance: int) -> np.ndarray:
  """Returns the map [n, n] from a position's code to that of a later one."""
  codes = _position_codes(np.arange(_PERIOD))
  later = _position_codes(np.arange(_PERIOD) + distance)
  return np.linalg.pinv(codes) @ later


def _define_flags() -> None:
  flags.DEFINE_string('out', None, 'Folder to create.', required=True)


def main(argv: Sequence[str]) -> None:
  """Writes the folder of the flags."""
  del argv
  write(flags.FLAGS.out)
  print(f'wrote {flags.FLAGS.out}')


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
