"""Times one layer of each mixer, forward and backward, against PyTorch on CPU.

    .venv-parity/bin/python -m benchmarks.mixers [--mixers=mamba2,ttt_mlp]

`make parity` creates the environment. Gated DeltaNet and Mamba 2 are compared
with the layers of transformers, which `make parity` compares number by number;
the others with the same mathematics in eager PyTorch, written here and checked
before it is timed. One direction of one layer, gradients of all parameters and
of the input, float32, the same threads. Both alternate in one process, and the
least of the calls counts: a busy machine changes times, but hardly their ratio.
"""

from __future__ import annotations

import time

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional
from transformers.models.mamba2 import modeling_mamba2
from transformers.models.qwen3_next import modeling_qwen3_next

from benchmarks.ttt_layer import torch_ttt_mlp
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import dit
from ttt_jax.models.dit import mixers
from ttt_jax.models.dit import rope
from ttt_jax.runtime import cli

# Two segments: 26 frames of 8 x 12 tokens, texts of 48.
ORDER = token_order.TokenOrder(2, 12, 8, 12, 48)
_MIXERS = flags.DEFINE_list(
  'mixers',
  ['gated_deltanet', 'mamba2', 'large_chunk_ttt', 'frame_deltanet', 'ttt_mlp'],
  'Mixers to time.',
)
_DIM = flags.DEFINE_integer('model_dim', 512, 'Model dim, heads of 64.')
_CALLS = flags.DEFINE_integer('calls', 5, 'Number of timed calls.')
_THREADS = flags.DEFINE_integer('threads', 2, 'Number of threads of PyTorch.')


def dense(p, x):
  """Applies a projection."""
  return x @ p['kernel'] + p.get('bias', 0)


def split(x, heads):
  """[B, T, H * D] -> [B, H, T, D]."""
  return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x):
  """[B, H, T, D] -> [B, T, H * D]."""
  return x.transpose(1, 2).flatten(2)


def rms_norm(x):
  return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def l2_norm(x):
  return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def rotate(x, rotary):
  """Rotates the feature pairs of x [B, T, H * D]."""
  cos, sin = rotary
  y = x.unflatten(-1, (-1, cos.shape[-1]))
  swapped = torch.stack([-y[..., 1::2], y[..., ::2]], -1).flatten(-2)
  return (y * cos[:, None] + swapped * sin[:, None]).flatten(2)


def large_chunk_ttt(p, x, rotary, chunk):
  """Computes the preset 'matched' of the layer."""
  heads, d, _ = p['w1'].shape
  q, k, v = (dense(p[name], x) for name in 'qkv')

  def normalise(y, norm):
    y = rms_norm(y.unflatten(-1, (heads, d)))
    y = y * norm['scale'].view(heads, d) + norm['bias'].view(heads, d)
    return split(rotate(l2_norm(y).flatten(2), rotary), heads)

  q, k, v = (
    normalise(q, p['q_norm']),
    normalise(k, p['k_norm']),
    split(v, heads),
  )
  shift = float(np.log(np.expm1(1e-3)))
  eta = functional.softplus(split(dense(p['lr'], x), heads) + shift)
  identity = 0.5 * torch.eye(d)
  w0, w2 = (
    p[f'{name}_left'] @ p[f'{name}_right'] + identity for name in ('w0', 'w2')
  )
  weights = [w[None] for w in (w0, p['w1'], w2)]
  norms = [w.norm(dim=-1, keepdim=True) for w in weights]
  outs = []
  parts = (y.split(chunk, dim=2) for y in (q, k, v, eta))
  for qi, ki, vi, lr in zip(*parts):
    w0, w1, w2 = weights
    gate, value = ki @ w0.mT, ki @ w2.mT
    active, hidden = functional.silu(gate), vi @ w1
    sigmoid = gate.sigmoid()
    slope = sigmoid * (1 + gate * (1 - sigmoid))
    updates = (
      (hidden * value * slope).mT @ (ki * lr[..., :1]),
      (vi * lr[..., 1:2]).mT @ (active * value),
      (hidden * active).mT @ (ki * lr[..., 2:]),
    )
    weights = [w + update for w, update in zip(weights, updates)]
    weights = [
      w * (n / w.norm(dim=-1, keepdim=True)) for w, n in zip(weights, norms)
    ]
    w0, w1, w2 = weights
    outs.append((functional.silu(qi @ w0.mT) * (qi @ w2.mT)) @ w1.mT)
  out = torch.cat(outs, 2)
  return dense(p['o'], merge(rms_norm(out) * p['norm']))


def frame_deltanet(p, x, order):
  """Computes the layer; frames and texts one after another."""
  heads, d = p['dt_bias'].shape
  q, k, v = (dense(p[name], x) for name in 'qkv')
  scan = order.is_text[order.forward_order]
  changes = np.flatnonzero(scan[1:] != scan[:-1]) + 1
  slices = []
  for begin, end in zip([0, *changes], [*changes, order.length]):
    size = end - begin if scan[begin] else order.tokens_per_frame
    slices += [slice(i, i + size) for i in range(begin, end, size)]
  video = torch.tensor(~scan)

  def features(y, space, time):
    grid = y[0, video].view(-1, order.rows, order.columns, y.shape[-1])
    flat = lambda w: w.transpose(1, 2).flatten(0, 1)
    grid = functional.conv2d(
      grid.permute(0, 3, 1, 2),
      flat(space).view(-1, 1, 5, 5),
      padding=2,
      groups=y.shape[-1],
    )
    past = functional.pad(grid.permute(2, 3, 1, 0).flatten(0, 1), (4, 0))
    grid = functional.conv1d(past, flat(time).unsqueeze(1), groups=y.shape[-1])
    frames = grid.permute(2, 0, 1).reshape(1, -1, y.shape[-1])
    return functional.silu(y.masked_scatter(video[None, :, None], frames))

  q = l2_norm(split(functional.silu(q), heads))
  k, v = (
    split(features(y, p[f'{name}_space'], p[f'{name}_time']), heads)
    for name, y in (('k', k), ('v', v))
  )
  k = l2_norm(k)
  beta = split(dense(p['beta'], x), heads).sigmoid()
  down = dense(p['decay'], x)
  means = torch.stack([down[0, part].mean(0) for part in slices])
  step = torch.einsum('nr,hrd->nhd', means, p['decay_up']) + p['dt_bias']
  alpha = torch.exp(-p['a_log'].exp()[:, None] * functional.softplus(step))
  state = torch.zeros(1, heads, d, d)
  outs = []
  for part, decay in zip(slices, alpha):
    ki, bi = k[:, :, part], beta[:, :, part]
    factor = torch.linalg.cholesky(torch.eye(d) + (ki * bi).mT @ ki)
    right = state * decay[:, None] + v[:, :, part].mT @ (ki * bi)
    state = torch.cholesky_solve(right.mT, factor).mT
    outs.append(q[:, :, part] @ state.mT)
  y = merge(rms_norm(torch.cat(outs, 2)) * p['norm'])
  gate = dense(p['gate_up'], dense(p['gate'], x)).sigmoid()
  return dense(p['o'], y * gate)


def ttt_mlp(p, x, rotary):
  """Computes the layer, with the inner loop of `benchmarks.ttt_layer`."""
  heads, d = p['ln_scale'].shape
  q, k = (split(rotate(dense(p[name], x), rotary), heads) for name in 'qk')
  q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
  difference = split(dense(p['v'], x), heads) - k
  centred = difference - difference.mean(-1, keepdim=True)
  target = centred / (difference.std(-1, keepdim=True) + 1e-8)
  scale, bias = p['ln_scale'], p['ln_bias']
  v = scale[:, None] * target + bias[:, None] + k
  eta = split(dense(p['lr'], x).sigmoid(), heads)[..., 0] * (0.1 / d / 64)
  out, *_ = torch_ttt_mlp(
    q, k, v, eta, *(p[name] for name in ('w1', 'b1', 'w2', 'b2')), scale, bias,
    mini_batch=64, dual=False,
  )  # fmt: skip
  norm = p['post_norm']
  out = functional.layer_norm(
    merge(out), (heads * d,), norm['scale'], norm['bias'], 1e-6
  )
  return dense(p['o'], out)


def library_layer(name, layer, dim):
  """Returns transformers' layer with the sizes of ours."""
  if name == 'mamba2':
    config = modeling_mamba2.Mamba2Config(
      hidden_size=dim,
      num_heads=layer.num_heads,
      head_dim=layer.head_dim,
      state_size=layer.state_dim,
      n_groups=layer.groups,
      expand=layer.num_heads * layer.head_dim // dim,
      num_hidden_layers=1,
    )
    return modeling_mamba2.Mamba2Mixer(config, 0)
  config = modeling_qwen3_next.Qwen3NextConfig(
    hidden_size=dim,
    linear_num_value_heads=layer.num_heads,
    linear_num_key_heads=layer.key_heads,
    linear_key_head_dim=layer.key_dim,
    linear_value_head_dim=layer.value_dim,
    linear_conv_kernel_dim=4,
    num_hidden_layers=1,
    layer_types=['linear_attention'],
  )
  return modeling_qwen3_next.Qwen3NextGatedDeltaNet(config, 0)


def torch_call(name, layer, params, rotary, x, cotangent):
  """Returns a function of no arguments: output and gradients in PyTorch."""
  x = torch.tensor(x, requires_grad=True)
  cotangent = torch.tensor(cotangent)
  if name in ('mamba2', 'gated_deltanet'):
    module = library_layer(name, layer, x.shape[-1])
    leaves, apply = list(module.parameters()), module
  else:
    tensor = lambda leaf: torch.tensor(np.array(leaf), requires_grad=True)
    p = jax.tree.map(tensor, params)
    leaves = jax.tree.leaves(p)
    table = [torch.tensor(np.array(y)) for y in rotary]
    apply = {
      'large_chunk_ttt': lambda x: large_chunk_ttt(p, x, table, layer.chunk),
      'frame_deltanet': lambda x: frame_deltanet(p, x, ORDER),
      'ttt_mlp': lambda x: ttt_mlp(p, x, table),
    }[name]

  def run():
    y = apply(x)
    return y.detach(), torch.autograd.grad(y, [x, *leaves], cotangent)

  return run


def measure(name: str) -> tuple[float, float]:
  """Returns the least seconds of our layer and of PyTorch's."""
  dim = _DIM.value
  config = dit.DiTConfig(
    mixer=name, model_dim=dim, num_heads=dim // 64, num_layers=1
  )
  layer = mixers.MIXERS[name].layer(config, ORDER, sharding.ShardingPlan())
  rotary = rope.rotary_cos_sin(ORDER.ttt_positions, 64)
  x, cotangent = (
    np.random.default_rng(0)
    .normal(size=(2, 1, ORDER.length, dim))
    .astype(np.float32)
  )
  params = jax.jit(layer.init)(jax.random.key(0), x, rotary)['params']

  @jax.jit
  def ours(params, x):
    apply = lambda params, x: layer.apply({'params': params}, x, rotary)[0]
    y, pull = jax.vjp(apply, params, x)
    return y, pull(jnp.asarray(cotangent))

  theirs = torch_call(name, layer, params, rotary, x, cotangent)
  if name not in ('mamba2', 'gated_deltanet'):
    (y, (_, d_x)), (want, (want_d_x, *_)) = ours(params, x), theirs()
    for got, wanted in ((y, want), (d_x, want_d_x)):
      error = np.abs(got - wanted.numpy()).max() / wanted.abs().max()
      assert error < 1e-3, f'{name}: the implementations differ by {error:.1e}'
  calls = {
    'jax': lambda: jax.block_until_ready(ours(params, x)),
    'torch': theirs,
  }
  least = dict.fromkeys(calls, float('inf'))
  for call in range(_CALLS.value + 1):
    for side, function in calls.items():
      start = time.perf_counter()
      function()
      if call:  # The first compiles or warms up.
        least[side] = min(least[side], time.perf_counter() - start)
  return least['jax'], least['torch']


def main(_) -> None:
  torch.set_num_threads(_THREADS.value)
  print(
    f'{ORDER.length} tokens, M = {_DIM.value}, float32, {_THREADS.value}'
    f' threads; least of {_CALLS.value} calls'
  )
  print(f'{"mixer":20}{"jax":>10}{"torch":>10}{"torch / jax":>13}')
  for name in _MIXERS.value:
    ours, theirs = measure(name)
    print(
      f'{name:20}{ours:9.3f}s{theirs:9.3f}s{theirs / ours:13.2f}', flush=True
    )


if __name__ == '__main__':
  cli.run(main)
