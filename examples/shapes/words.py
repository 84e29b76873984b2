"""Trains the small text encoder of the world of shapes.

Linear classifiers on every state from the end of the text on learn the four
attributes of the caption. They are discarded after training.
"""

from __future__ import annotations

import pathlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.shapes import captions
from examples.shapes import tokenizer
from examples.shapes import world
from ttt_jax import convert
from ttt_jax.encoders import clip_tokenizer
from ttt_jax.models.text import clip

_ASPECTS = {
  'shape': world.SHAPES,
  'colour': tuple(world.COLOURS),
  'background': tuple(world.COLOURS),
  'texture': world.TEXTURES,
}


class Reader(nn.Module):
  """The text encoder with a linear classifier per attribute."""

  config: clip.CLIPTextConfig

  @nn.compact
  def __call__(self, ids: jax.Array) -> list[jax.Array]:
    """Maps ids int32 [N, L] to logits [N, L, choices] per attribute."""
    states = clip.CLIPTextEncoder(self.config, name='encoder')(ids)
    return [nn.Dense(len(all_), name=n)(states) for n, all_ in _ASPECTS.items()]


def caption_labels() -> tuple[list[str], np.ndarray]:
  """Returns all captions and their labels int32 [N, 4], as in `_ASPECTS`."""
  every = world.all_attributes()
  found = [
    [
      choices.index(getattr(attributes, name))
      for name, choices in _ASPECTS.items()
    ]
    for attributes in every
  ]
  return [captions.caption(attributes) for attributes in every], np.array(
    found, np.int32
  )


def train(config, folder: pathlib.Path) -> float:
  """Trains, and writes `tokenizer` and `text_encoder` in `folder`.

  Args:
    config: Config with `text` (fields of `CLIPTextConfig`), `steps`,
      `batch_size`, `lr`, `held_out` (share of the captions) and `seed`.
    folder: Folder of the complete model.

  Returns:
    The share of held-out captions whose attributes are all correct.
  """
  size = tokenizer.write_tokenizer(folder / 'tokenizer')
  tokenize = clip_tokenizer.find_tokenizer(folder / 'tokenizer')
  model = Reader(
    clip.CLIPTextConfig(
      **config.text,
      vocab_size=size,
      max_length=tokenizer.LENGTH,
    )
  )
  texts, labels = caption_labels()
  ids = tokenize(texts)[:, : tokenizer.LENGTH]
  ended = np.cumsum(ids == tokenize.end_id, axis=1) > 0
  rng = np.random.default_rng(config.seed)
  order = rng.permutation(len(ids))
  held_out, seen = np.split(order, [round(config.held_out * len(ids))])
  params = model.init(jax.random.key(config.seed), ids[:1])['params']
  tx = optax.adamw(
    optax.cosine_decay_schedule(config.lr, config.steps), weight_decay=1e-4
  )

  def loss_fn(params, ids, ended, labels):
    logits = model.apply({'params': params}, ids)
    loss = 0.0
    for i, aspect in enumerate(logits):
      targets = jnp.broadcast_to(labels[:, i, None], ids.shape)
      each = optax.softmax_cross_entropy_with_integer_labels(aspect, targets)
      loss += (each * ended).sum() / ended.sum()
    return loss

  @jax.jit
  def step(params, state, *batch):
    grads = jax.grad(loss_fn)(params, *batch)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for _ in range(config.steps):
    rows = rng.choice(seen, config.batch_size)
    params, state = step(params, state, ids[rows], ended[rows], labels[rows])
  convert.save_clip(
    model.config,
    jax.device_get(params['encoder']),
    folder / 'text_encoder',
    dtype=np.float16,
  )
  logits = model.apply({'params': params}, ids[held_out])
  correct = np.all(
    [
      np.argmax(aspect, -1) == labels[held_out, i, None]
      for i, aspect in enumerate(logits)
    ],
    axis=0,
  )
  return float(correct[ended[held_out]].mean())
