"""Checks and dtypes of the arguments of all inner-loop ops.

Alphabet: B batch, H heads, T tokens, D head dim, K hidden of the inner MLP,
C tokens per mini-batch, N mini-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp


def check_sequence(
  tokens: Mapping[str, jax.Array],
  eta: jax.Array,
  norms: Mapping[str, jax.Array],
  mini_batch: int,
) -> dict[str, int]:
  """Returns the sizes {'B', 'H', 'T', 'D'}.

  Args:
    tokens: name -> array that must be [B, H, T, D]; the first sets the sizes.
    eta: step sizes, must be [B, H, T].
    norms: name -> LayerNorm parameter, must be [H, D].
    mini_batch: tokens per mini-batch, an int of at least 1.

  Raises:
    ValueError: a shape, a dtype or mini_batch is invalid.
  """
  name, first = next(iter(tokens.items()))
  _check_array(name, first)
  if jnp.ndim(first) != 4:
    raise ValueError(
      f'{name} has shape {jnp.shape(first)}: it must have 4 dimensions'
      ' [B, H, T, D], for example (1, 4, 64, 32)'
    )
  sizes: dict[str, int] = dict(zip('BHTD', first.shape))
  if not all(sizes.values()):
    raise ValueError(
      f'{name} has shape {first.shape}: every size of [B, H, T, D] must be'
      ' at least 1'
    )
  for name, array in tokens.items():
    _check_shape(name, array, 'BHTD', sizes)
  _check_shape('eta', eta, 'BHT', sizes)
  for name, array in norms.items():
    _check_shape(name, array, 'HD', sizes)
  if isinstance(mini_batch, bool) or not hasattr(mini_batch, '__index__'):
    raise ValueError(f'mini_batch={mini_batch!r} must be an int, such as 64')
  if mini_batch < 1:
    raise ValueError(f'mini_batch={mini_batch} must be at least 1, such as 64')
  return sizes


def check_state(
  shapes: Mapping[str, str],
  state: Sequence[jax.Array],
  sizes: dict[str, int],
) -> None:
  """Raises ValueError unless each state has its shape, with or without B.

  Args:
    shapes: name -> letters of the shape without B, such as 'HDK'.
    state: the arrays, in the order of `shapes`.
    sizes: size by letter; 'K' is taken from the first state that has it.
  """
  for (name, letters), array in zip(shapes.items(), state):
    _check_array(name, array)
    if jnp.ndim(array) == len(letters) + 1:
      letters = 'B' + letters
    if 'K' in letters and 'K' not in sizes and jnp.ndim(array) == len(letters):
      sizes = {**sizes, 'K': array.shape[letters.index('K')]}
    _check_shape(name, array, letters, sizes)


def _check_array(name: str, array: jax.Array) -> None:
  """Raises ValueError for a list and whatever else is not an array."""
  if not hasattr(array, 'dtype'):
    raise ValueError(
      f'{name} is a {type(array).__name__}: it must be an array, for example'
      f' jnp.asarray({name})'
    )


def _check_shape(
  name: str, array: jax.Array, letters: str, sizes: Mapping[str, int]
) -> None:
  """Raises ValueError unless `array` has the sizes that `letters` name."""
  _check_array(name, array)
  expected = tuple(sizes.get(letter) for letter in letters)
  if jnp.shape(array) != expected:
    raise ValueError(
      f'{name} has shape {jnp.shape(array)}: [{", ".join(letters)}] must be'
      f' {expected}'
    )
  if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
    raise ValueError(
      f'{name} has dtype {jnp.result_type(array)}: it must be floating,'
      ' such as float32'
    )


def state_dtype(*arrays: jax.Array) -> jnp.dtype:
  """Returns float64 if any of the arrays is float64, else float32."""
  return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def batched_state(
  arrays: Sequence[jax.Array],
  ranks: Sequence[int],
  batch: int,
  dtype: jnp.dtype,
) -> tuple[jax.Array, ...]:
  """Returns the states as `dtype` with a leading B, repeated where missing.

  Args:
    arrays: initial states, with or without a leading B.
    ranks: their ranks without B.
    batch: B.
    dtype: dtype of the result.
  """
  return tuple(
    jnp.broadcast_to(
      array, array.shape if array.ndim > rank else (batch, *array.shape)
    ).astype(dtype)
    for array, rank in zip(arrays, ranks)
  )


def check_shapes(
  arrays: Mapping[str, tuple[jax.Array, str]],
) -> dict[str, int]:
  """Returns the size of every letter.

  Args:
    arrays: name -> (array, letters of its shape, such as 'BHTK'); the first
      array that has a letter determines its size.

  Raises:
    ValueError: an array has another shape or is not floating.
  """
  sizes: dict[str, int] = {}
  for name, (array, letters) in arrays.items():
    _check_array(name, array)
    shape = jnp.shape(array)
    if len(shape) != len(letters):
      raise ValueError(
        f'{name} has shape {shape}: it must have {len(letters)} dimensions'
        f' [{", ".join(letters)}]'
      )
    for letter, size in zip(letters, shape):
      sizes.setdefault(letter, size)
    if not all(shape):
      raise ValueError(
        f'{name} has shape {shape}: every size of [{", ".join(letters)}] must'
        ' be at least 1'
      )
    _check_shape(name, array, letters, sizes)
  return sizes


def check_chunk(chunk: int, name: str = 'chunk') -> None:
  """Raises ValueError unless a number of tokens is an int of at least 1."""
  if isinstance(chunk, bool) or not hasattr(chunk, '__index__') or chunk < 1:
    raise ValueError(
      f'{name}={chunk!r} must be an int of at least 1, such as 64'
    )


def first_state(
  initial_state: jax.Array | None, shape: Sequence[int], *arrays: jax.Array
) -> jax.Array:
  """Returns the initial state, float64 if any array is, else float32.

  Args:
    initial_state: initial state of the call; zeros if None.
    shape: shape of the state.
    *arrays: the other arguments of the op.
  """
  if initial_state is None:
    return jnp.zeros(shape, state_dtype(*arrays))
  return initial_state.astype(state_dtype(initial_state, *arrays))
