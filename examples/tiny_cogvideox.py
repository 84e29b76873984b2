"""Writes a tiny CogVideoX with random weights, in the layout of the real one.

    from examples import tiny_cogvideox
    tiny_cogvideox.write_model('tiny')

Everything that reads a CogVideoX reads this folder, too, within seconds and
without a download. The transformer and the text encoder have learned nothing;
the autoencoder is the small one of the package, which has.
"""

from __future__ import annotations

from collections.abc import Iterable
import io
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import sentencepiece

from examples import cogvideox_folder
from ttt_jax import convert
from ttt_jax.convert import model_folder
from ttt_jax.convert import vae as vae_lib
from ttt_jax.models import dit
from ttt_jax.models.text import t5

VAE = 'package:ttt_jax/assets/quickstart_vae'
PANGRAM = 'The quick brown fox jumps over the lazy dog and seven wizards.'
_TEXT_DIM = 32
# Rows of a T5's embedding table after the tokenizer's own: 100 that no text
# has, and 28 that make the number of rows a round one.
_MORE_ROWS = 100 + 28


def write_model(
  folder: str | os.PathLike[str],
  *,
  height: int = 64,
  width: int = 96,
  model_dim: int = 64,
  num_layers: int = 2,
  vae: str | os.PathLike[str] = VAE,
  words: Iterable[str] = (PANGRAM,),
) -> pathlib.Path:
  """Writes the folder; the same arguments give the same weights.

  Args:
    folder: Folder of the model; must not exist.
    height: Pixel rows of its videos, a multiple of 16.
    width: Pixel columns, a multiple of 16.
    model_dim: Model dim, a multiple of 32.
    num_layers: Number of blocks.
    vae: Folder of the autoencoder, which is copied.
    words: Texts from which the tokenizer takes its pieces.

  Returns:
    The folder.

  Raises:
    ValueError: a size is not a multiple of its divisor.
    FileExistsError: the folder exists.
  """
  folder = pathlib.Path(folder)
  for name, size, unit in (
    ('height', height, 16),
    ('width', width, 16),
    ('model_dim', model_dim, 32),
  ):
    if size < unit or size % unit:
      raise ValueError(
        f'{name} is {size}; it must be a multiple of {unit}, for example'
        f' {max(1, size // unit) * unit}'
      )
  folder.mkdir(parents=True)
  vae = model_folder.resolve(vae)
  shutil.copytree(vae, folder / 'vae')
  channels = vae_lib.FORMAT.load_config(vae).latent_channels
  transformer = dit.DiTConfig(
    model_dim=model_dim,
    num_heads=model_dim // 32,
    num_layers=num_layers,
    time_embed_dim=model_dim,
    text_dim=_TEXT_DIM,
    in_channels=channels,
    out_channels=channels,
    mixer='none',
    base_rows=height // 16,
    base_columns=width // 16,
  )
  params = draw_params(dit.abstract_params(transformer))
  convert.save_dit(transformer, params, folder / 'transformer')
  pieces = _write_tokenizer(folder / 'tokenizer', words)
  text_encoder = t5.T5Config(
    vocab_size=pieces + _MORE_ROWS,
    width=_TEXT_DIM,
    num_layers=2,
    num_heads=4,
    head_dim=8,
    mlp_dim=48,
    num_buckets=8,
    max_distance=32,
  )
  params = draw_params(t5.abstract_params(text_encoder))
  convert.save_t5(text_encoder, params, folder / 'text_encoder')
  cogvideox_folder.complete(
    folder,
    text_encoder='T5EncoderModel',
    tokenizer='T5Tokenizer',
  )
  return folder


def draw_params(shapes: Any) -> Any:
  """Returns random parameters, none of them zero: zeros hide what precedes.

  Args:
    shapes: Nested dict of `jax.ShapeDtypeStruct`.
  """
  rng = np.random.default_rng(3)

  def draw(path, leaf):
    value = rng.normal(size=leaf.shape)
    kind = path[-1].key
    if kind == 'kernel':
      value *= 1.5 / np.sqrt(leaf.size / leaf.shape[-1])
    elif kind != 'embedding':
      value = 0.1 * value + (kind == 'scale')
    return value.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def train_tokenizer(
  sentences: Iterable[str], vocab_size: int, **options: object
) -> bytes:
  """Trains a sentencepiece model with T5's special tokens.

  Args:
    sentences: Texts.
    vocab_size: Most tokens.
    **options: Other options of sentencepiece's trainer.

  Returns:
    Content of spiece.model.
  """
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(sentences),
    model_writer=model,
    vocab_size=vocab_size,
    hard_vocab_limit=False,
    model_type='unigram',
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
    **options,
  )
  return model.getvalue()


def _write_tokenizer(folder: pathlib.Path, words: Iterable[str]) -> int:
  """Writes spiece.model; returns its size."""
  model = train_tokenizer(words, vocab_size=80)
  folder.mkdir()
  (folder / 'spiece.model').write_bytes(model)
  return sentencepiece.SentencePieceProcessor(
    model_proto=model
  ).get_piece_size()
