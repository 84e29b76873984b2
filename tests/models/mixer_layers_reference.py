"""One direction of the mixers' layers in NumPy, token by token.

The equations of docs/mixers.md and of the layers' papers, written out. Nothing
is imported from the layers or their ops. Every function maps the layer's
parameters, a nested dict, and the tokens [T, M] of one sequence in scan order
to [T, M], in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ttt_jax import token_order

Params = dict[str, Any]


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def silu(x):
  return x * sigmoid(x)


def softplus(x):
  return np.log1p(np.exp(x))


def unit(x, epsilon):
  """Divides vectors by their length."""
  return x / np.sqrt((x**2).sum(-1, keepdims=True) + epsilon)


def rms_norm(x, epsilon):
  """Divides vectors by the root of their mean square."""
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def layer_norm(x, p, epsilon):
  x = x - x.mean(-1, keepdims=True)
  variance = (x**2).mean(-1, keepdims=True)
  return x / np.sqrt(variance + epsilon) * p['scale'] + p['bias']


def linear(p, x):
  return x @ p['kernel']


def affine(p, x):
  return x @ p['kernel'] + p['bias']


def rotate(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
  """Rotates the pairs (2i, 2i + 1) of the features of heads [T, H, D].

  Time has the first quarter of the pairs, row and column three eighths each. In
  a part of F features, pair i turns by position * 10000^(-2i / F). Text, whose
  position is -1, is not turned.
  """
  d = x.shape[-1]
  widths = (d // 4, 3 * d // 8, 3 * d // 8)
  angles = np.zeros((len(x), d // 2))
  for t, position in enumerate(positions):
    if position[0] >= 0:
      angles[t] = np.concatenate(
        [
          count * 10_000.0 ** (-2 * np.arange(width // 2) / width)
          for count, width in zip(position, widths)
        ]
      )
  turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
  return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def short_convolution(x, kernel, bias=0.0):
  """Convolves [T, H, D] with the tokens before each, by kernels [H, n, D]."""
  n = kernel.shape[1]
  y = np.zeros_like(x)
  for t in range(len(x)):
    for back in range(min(n, t + 1)):
      y[t] += kernel[:, n - 1 - back] * x[t - back]
  return silu(y + bias)


def gated_deltanet(
  p: Params, x: np.ndarray, *, heads: int, key_heads: int, epsilon: float = 1e-6
) -> np.ndarray:
  """The layer of Gated DeltaNet (arXiv:2412.06464, section 3.4, equation 10).

  The norm of the results removes the scale of the queries, K^-0.5, up to
  `epsilon`.
  """
  counts = dict(q=key_heads, k=key_heads, v=heads)
  q, k, v = (
    short_convolution(
      linear(p[name], x).reshape(len(x), count, -1), p[f'{name}_conv']
    )
    for name, count in counts.items()
  )
  # Neighbouring heads of the values share one of the keys.
  shared = np.arange(heads) // (heads // key_heads)
  q = unit(q, epsilon)[:, shared] / np.sqrt(q.shape[-1])
  k = unit(k, epsilon)[:, shared]
  beta = sigmoid(linear(p['beta'], x))
  g = -np.exp(p['a_log']) * softplus(linear(p['decay'], x) + p['dt_bias'])
  state = np.zeros((heads, k.shape[-1], v.shape[-1]))
  read = np.zeros_like(v)
  for t in range(len(x)):
    state *= np.exp(g[t])[:, None, None]
    error = v[t] - np.einsum('hkv,hk->hv', state, k[t])
    state += np.einsum('h,hk,hv->hkv', beta[t], k[t], error)
    read[t] = np.einsum('hkv,hk->hv', state, q[t])
  gate = silu(linear(p['z'], x)).reshape(read.shape)
  y = rms_norm(read, epsilon) * p['norm'] * gate
  return linear(p['o'], y.reshape(len(x), -1))


def mamba2(
  p: Params, x: np.ndarray, *, heads: int, groups: int, epsilon: float = 1e-5
) -> np.ndarray:
  """The layer of Mamba 2 (arXiv:2405.21060, section 7.1)."""
  counts = dict(x=heads, b=groups, c=groups)
  value, b, c = (
    short_convolution(
      linear(p[name], x).reshape(len(x), count, -1),
      p[f'{name}_conv'],
      p[f'{name}_conv_bias'],
    )
    for name, count in counts.items()
  )
  # Neighbouring heads share a group's directions.
  shared = np.arange(heads) // (heads // groups)
  b, c = b[:, shared], c[:, shared]
  dt = softplus(linear(p['dt'], x) + p['dt_bias'])
  rate = -np.exp(p['a_log'])
  state = np.zeros((heads, value.shape[-1], b.shape[-1]))
  y = np.zeros_like(value)
  for t in range(len(x)):
    state *= np.exp(rate * dt[t])[:, None, None]
    state += np.einsum('h,hp,hn->hpn', dt[t], value[t], b[t])
    y[t] = np.einsum('hpn,hn->hp', state, c[t]) + p['skip'][:, None] * value[t]
  y = y.reshape(len(x), -1) * silu(linear(p['z'], x))
  y = rms_norm(y.reshape(len(x), groups, -1), epsilon).reshape(y.shape)
  return linear(p['o'], y * p['norm'])


def scanned_frames(
  order: token_order.TokenOrder,
) -> list[tuple[bool, np.ndarray]]:
  """Returns, for each text and frame in scan order, if it is text, and where.

  The first segment has one frame more than the others.
  """
  found: list[tuple[bool, np.ndarray]] = []
  start = 0
  for segment in range(order.segments):
    frames = order.segment_latent_frames + (segment == 0)
    sizes = [order.text_length] + [order.rows * order.columns] * frames
    for i, size in enumerate(sizes):
      found.append((i == 0, np.arange(start, start + size)))
      start += size
  return found


def frame_convolution(p, name, x, order):
  """Convolves the frames of [T, H, D], not the texts; then SiLU on all."""
  space = p[f'{name}_space'].reshape(-1, 5, 5, x.shape[-1])
  time = p[f'{name}_time']
  frames: list[np.ndarray] = []
  y = np.array(x)
  for is_text, index in scanned_frames(order):
    if is_text:
      continue
    frame = x[index].reshape(order.rows, order.columns, *x.shape[1:])
    padded = np.pad(frame, ((2, 2), (2, 2), (0, 0), (0, 0)))
    mixed = np.zeros_like(frame)
    for row in range(5):
      for column in range(5):
        part = padded[row : row + order.rows, column : column + order.columns]
        mixed += space[:, row, column] * part
    frames.append(mixed.reshape(len(index), *x.shape[1:]))
    past = frames[::-1][:5]
    y[index] = sum(time[:, 4 - back] * f for back, f in enumerate(past))
  return silu(y)


def frame_deltanet(
  p: Params,
  x: np.ndarray,
  *,
  heads: int,
  order: token_order.TokenOrder,
  epsilon: float = 1e-6,
) -> np.ndarray:
  """The linear branch of VideoDeltaNet in one direction, see docs/mixers.md.

  The state of a frame is the solution of its least-squares problem, not of the
  normal equations.
  """
  q, k, v = (linear(p[name], x).reshape(len(x), heads, -1) for name in 'qkv')
  q = unit(silu(q), epsilon)
  k = unit(frame_convolution(p, 'k', k, order), epsilon)
  v = frame_convolution(p, 'v', v, order)
  beta = sigmoid(linear(p['beta'], x))
  d = q.shape[-1]
  state = np.zeros((heads, d, d))  # Values by keys.
  read = np.zeros_like(v)
  for _, index in scanned_frames(order):
    mean = linear(p['decay'], x[index]).mean(0)
    for h in range(heads):
      step = softplus(mean @ p['decay_up'][h] + p['dt_bias'][h])
      alpha = np.exp(-np.exp(p['a_log'][h]) * step)
      # |S - S_old Diag(alpha)|^2 + sum_i beta_i |S k_i - v_i|^2, least.
      weight = np.sqrt(beta[index, h, None])
      rows = np.concatenate([np.eye(d), weight * k[index, h]])
      values = np.concatenate([(state[h] * alpha).T, weight * v[index, h]])
      state[h] = np.linalg.lstsq(rows, values)[0].T
      read[index, h] = q[index, h] @ state[h].T
  gate = sigmoid(affine(p['gate_up'], linear(p['gate'], x))).reshape(read.shape)
  y = rms_norm(read, epsilon) * p['norm'] * gate
  return linear(p['o'], y.reshape(len(x), -1))


def orthogonalised(x: np.ndarray) -> np.ndarray:
  """Takes Muon's five steps (Jordan et al. 2024) on the singular values."""
  u, s, v = np.linalg.svd(x, full_matrices=False)
  s = s / (np.sqrt((s**2).sum(-1, keepdims=True)) + 1e-7)
  for _ in range(5):
    s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
  return u * s[..., None, :] @ v


def large_chunk_ttt(
  p: Params,
  x: np.ndarray,
  *,
  heads: int,
  positions: np.ndarray,
  attention_heads: int,
  chunk: int,
  complete: bool = False,
  last: bool = False,
  muon: bool = False,
  epsilon: float = 1e-6,
) -> np.ndarray:
  """The layer of LaCT (arXiv:2505.23884), see docs/mixers.md.

  Args:
    p: Parameters of the layer.
    x: Tokens [T, M].
    heads: Heads of the layer.
    positions: Positions of the tokens.
    attention_heads: Heads whose features are rotated.
    chunk: Tokens per update.
    complete: Whether W0 and W2 are parameters; else their products of low rank
      are, to which half the identity is added.
    last: Whether only the last matrix, W1, is updated.
    muon: Whether updates are orthogonalised.
    epsilon: Number added to mean squares and to squared lengths.
  """
  split = lambda y: y.reshape(len(x), heads, -1)

  def normalised(name):
    y = rms_norm(split(affine(p[name], x)), epsilon).reshape(len(x), -1)
    y = y * p[f'{name}_norm']['scale'] + p[f'{name}_norm']['bias']
    y = unit(split(y), epsilon).reshape(len(x), attention_heads, -1)
    return split(rotate(y, positions))

  def first(name):
    if complete:
      return p[name]
    low_rank = p[f'{name}_left'] @ p[f'{name}_right']
    return low_rank + np.eye(*low_rank.shape[1:]) / 2

  q, k, v = normalised('q'), normalised('k'), split(affine(p['v'], x))
  # Step sizes per head for W0, W1 and W2; 0.001 for a projection of zero.
  eta = softplus(split(affine(p['lr'], x)) + np.log(np.expm1(0.001)))
  weights = [first('w0'), p['w1'], first('w2')]
  lengths = [np.linalg.norm(w, axis=-1, keepdims=True) for w in weights]
  read = np.zeros_like(v)
  for start in range(0, len(x), chunk):
    part = slice(start, start + chunk)
    w0, w1, w2 = weights
    gate = np.einsum('hij,thj->thi', w0, k[part])
    value = np.einsum('hij,thj->thi', w2, k[part])
    back = np.einsum('hji,thj->thi', w1, v[part])
    slope = sigmoid(gate) * (1 + gate * (1 - sigmoid(gate)))
    # Ascends f(k) . v.
    gradients = [
      (back * value * slope, k[part]),
      (v[part], silu(gate) * value),
      (back * silu(gate), k[part]),
    ]
    for i, w in enumerate(weights):
      if last and i != 1:
        continue
      rate = eta[part, :, 0 if last else i]
      step = np.einsum('th,thi,thj->hij', rate, *gradients[i])
      new = w + (orthogonalised(step) if muon else step)
      length = np.linalg.norm(new, axis=-1, keepdims=True)
      weights[i] = new * lengths[i] / length
    # Not read before the chunk has been learned.
    w0, w1, w2 = weights
    gate = np.einsum('hij,thj->thi', w0, q[part])
    value = np.einsum('hij,thj->thi', w2, q[part])
    read[part] = np.einsum('hij,thj->thi', w1, silu(gate) * value)
  y = rms_norm(read, epsilon) * p['norm']
  return affine(p['o'], y.reshape(len(x), -1))


def attention(
  p: Params,
  x: np.ndarray,
  *,
  heads: int,
  positions: np.ndarray,
  window: int | None = None,
  epsilon: float = 1e-6,
) -> np.ndarray:
  """Softmax attention of a token to itself and to those scanned before.

  Args:
    p: Parameters of the layer.
    x: Tokens [T, M].
    heads: Number of heads.
    positions: Positions of the tokens.
    window: Tokens that a token attends to, with itself; None is all.
    epsilon: Number added to variances.
  """
  q, k, v = (affine(p[name], x).reshape(len(x), heads, -1) for name in 'qkv')
  q = rotate(layer_norm(q, p['q_norm'], epsilon), positions)
  k = rotate(layer_norm(k, p['k_norm'], epsilon), positions)
  read = np.zeros_like(v)
  for t in range(len(x)):
    first = 0 if window is None else max(0, t - window + 1)
    scores = np.einsum('shd,hd->sh', k[first : t + 1], q[t])
    weights = np.exp(scores / np.sqrt(q.shape[-1]))
    weights /= weights.sum(0)
    read[t] = np.einsum('sh,shd->hd', weights, v[first : t + 1])
  return affine(p['o'], read.reshape(len(x), -1))
