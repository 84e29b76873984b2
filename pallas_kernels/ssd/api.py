"""The public function of Mamba 2's recurrence: checks and dispatch."""

from __future__ import annotations

import jax

from pallas_kernels.arguments import check_chunk
from pallas_kernels.arguments import check_shapes
from pallas_kernels.dispatch import dispatch
from pallas_kernels.ssd import reference
from pallas_kernels.ssd import xla

IMPLEMENTATIONS = {'xla': xla.ssd, 'reference': reference.ssd}


def ssd(
  x: jax.Array,
  dt: jax.Array,
  a: jax.Array,
  b: jax.Array,
  c: jax.Array,
  d: jax.Array | None = None,
  initial_state: jax.Array | None = None,
  *,
  chunk: int = 128,
  implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Runs the selective state space of Mamba 2 over a sequence.

      h <- e^(a dt) h + dt x b^T;  y = h c + d x

  (Dao & Gu 2024, arXiv:2405.21060, section 6.) Differentiable in all arrays in
  reverse mode, also through the state. Any length. The result does not depend
  on `chunk` except for rounding.

  Args:
    x: inputs [B, H, T, P].
    dt: step sizes [B, H, T], at least 0; 0 does not change the state.
    a: decay rates [H], negative.
    b: input directions [B, G, T, N]; G divides H, and heads H/G g to
      H/G (g + 1) - 1 share those of group g.
    c: output directions [B, G, T, N], shared like b.
    d: weight of the direct path [H]; None omits the path.
    initial_state: h before the first token, [B, H, P, N]; zeros if None.
    chunk: C, tokens that are computed as one product.
    implementation: None for the best that accepts the arguments, or
      'reference', 'xla'.

  Returns:
    (y, state): y [B, H, T, P] in x's dtype; h after the last token
    [B, H, P, N], float32 (float64 if an input is): pass it as the initial
    state to continue the sequence.

  Raises:
    ValueError: a shape, a dtype or chunk is invalid.
    NotImplementedError: the named implementation does not exist.

  Example:
    >>> import jax.numpy as jnp
    >>> x = b = c = jnp.ones((1, 1, 4, 1))
    >>> dt, a = jnp.ones((1, 1, 4)), jnp.log(jnp.array([0.5]))
    >>> y, state = ssd(x, dt, a, b, c)  # Halves the state before each token.
    >>> y.ravel().tolist()
    [1.0, 1.5, 1.75, 1.875]
  """
  sizes = check_shapes(
    {
      'x': (x, 'BHTP'),
      'dt': (dt, 'BHT'),
      'a': (a, 'H'),
      'b': (b, 'BGTN'),
      'c': (c, 'BGTN'),
    }
    | ({} if d is None else {'d': (d, 'H')})
    | (
      {}
      if initial_state is None
      else {'initial_state': (initial_state, 'BHPN')}
    )
  )
  if sizes['H'] % sizes['G']:
    raise ValueError(
      f'b has {sizes["G"]} groups for {sizes["H"]} heads: the number of groups'
      ' must divide the number of heads, for example 1'
    )
  check_chunk(chunk)
  return dispatch(
    'ssd',
    IMPLEMENTATIONS,
    implementation,
    x,
    dt,
    a,
    b,
    c,
    d,
    initial_state,
    chunk=chunk,
  )
