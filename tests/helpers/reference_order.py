"""The reference's token order: all texts first, then all video tokens."""

import numpy as np

from ttt_jax import token_order


def text_first(order: token_order.TokenOrder) -> np.ndarray:
  """[T] storage place of the i-th token of the reference's arrays."""
  return np.concatenate([order.text_index.ravel(), order.video_index.ravel()])
