"""Writes the text encoder of the cartoon's model: one code for each word.

    python -m examples.cartoon.text_encoder --out=DIR

The folder has the layout of transformers: a BERT with one token per word of
`words.VOCABULARY`, fixed random codes, and a block that adds nothing. So a
state depends on its word and position alone, and all that words mean together
has to be learned by the video transformer.
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
_POSITION_WIDTH = 32
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
    width=_WORD_WIDTH + _POSITION_WIDTH,
    num_layers=1,
    num_heads=1,
    mlp_dim=1,
    max_length=LENGTH,
    type_vocab_size=1,
  )
  params = _params(config)
  with files.atomic_folder(pathlib.Path(out)) as folder:
    convert_minilm.FORMAT.save(config, params, folder, dtype=np.float16)
    tokenizer.save(str(folder / 'tokenizer.json'))


def _params(config: minilm.MiniLMConfig) -> dict:
  """Returns codes of words and of positions in dimensions of their own."""
  params = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, np.float32),
    minilm.abstract_params(config),
  )
  rng = np.random.default_rng(0)
  params['tokens']['embedding'][:, :_WORD_WIDTH] = rng.standard_normal(
    (config.vocab_size, _WORD_WIDTH)
  )
  params['positions']['embedding'][:, _WORD_WIDTH:] = rng.standard_normal(
    (config.max_length, _POSITION_WIDTH)
  )
  params['norm']['scale'][:] = 1
  for name in ('attention_norm', 'mlp_norm'):
    params['layers'][name]['scale'][:] = 1
  return params


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
