"""Compares the speed of our inflated U-Net with the same network in PyTorch.

    .venv-parity/bin/python -m benchmarks.unet --frames=8 --side=32

`make parity` creates the environment. PyTorch's side is diffusers' U-Net with
the changes of Tune-A-Video: sparse-causal and temporal attention, and norms
over all frames. Both have the same weights, float32, and the same inputs:

  forward   one call of the network
  2-D       each frame separately, with diffusers' unchanged U-Net
  step      one step of tuning: loss, gradients of the trained weights, AdamW
  edit      DDIM inversion, then sampling with guidance, a few steps each

The calls alternate in one process; the fastest of a few counts.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tempfile
import time

from absl import flags
import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.nn import functional as F

from ttt_jax import convert
from ttt_jax.checkpoints import train_state
from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import inversion
from ttt_jax.diffusion import samplers
from ttt_jax.diffusion import sampling_schedule
from ttt_jax.models.unet3d import unet
from ttt_jax.runtime import cli

_FRAMES = flags.DEFINE_integer('frames', 8, 'Number of frames of the clip.')
_SIDE = flags.DEFINE_integer('side', 32, 'Rows and columns of the latents.')
_CHANNELS = flags.DEFINE_list(
  'channels', ['64', '128', '128'], 'Channels of each level.'
)
_STEPS = flags.DEFINE_integer(
  'steps', 3, 'Number of steps of inversion and of sampling.'
)
_CALLS = flags.DEFINE_integer(
  'calls', 4, 'Number of timed calls; the fastest counts.'
)

_TRAINS = re.compile(r'.*/(attn[12]/to_q|attn_temp)/.*')
_HEADS, _TEXT, _LENGTH, _LR, _GUIDANCE = 8, 64, 77, 3e-5, 12.5


def attend(attention, x, context):
  split = lambda y: y.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
  q = attention.to_q(x)
  k, v = attention.to_k(context), attention.to_v(context)
  y = F.scaled_dot_product_attention(split(q), split(k), split(v))
  return attention.to_out[0](y.transpose(1, 2).flatten(2))


class Inflated(torch.nn.Module):
  """A transformer block of diffusers with attention to other frames."""

  def __init__(self, block, frames):
    super().__init__()
    self.block, self.frames = block, frames
    width = block.norm1.weight.numel()
    self.norm_temp = torch.nn.LayerNorm(width)
    self.attn_temp = diffusers.models.attention_processor.Attention(
      width, heads=block.attn1.heads, dim_head=width // block.attn1.heads
    )

  def forward(self, x, encoder_hidden_states=None, **_):
    y = self.block.norm1(x)
    clips = y.unflatten(0, (-1, self.frames))
    first = clips[:, :1].expand_as(clips)
    previous = torch.cat([clips[:, :1], clips[:, :-1]], 1)
    both = torch.cat([first, previous], 2).flatten(0, 1)
    x = x + attend(self.block.attn1, y, both)
    y = self.block.norm2(x)
    x = x + attend(self.block.attn2, y, encoder_hidden_states)
    x = x + self.block.ff(self.block.norm3(x))
    y = self.norm_temp(x).unflatten(0, (-1, self.frames)).transpose(1, 2)
    y = y.flatten(0, 1)
    y = attend(self.attn_temp, y, y)
    y = y.unflatten(0, (-1, x.shape[1])).transpose(1, 2).flatten(0, 1)
    return x + y


class ClipNorm(torch.nn.Module):
  """A group norm over all frames of a clip."""

  def __init__(self, norm, frames):
    super().__init__()
    self.norm, self.frames = norm, frames

  def forward(self, x):
    x = self.norm(x.unflatten(0, (-1, self.frames)).transpose(1, 2))
    return x.transpose(1, 2).flatten(0, 1)


def inflate(model, params, frames):
  """Turns diffusers' U-Net into Tune-A-Video's, with our temporal weights."""
  flat = train_state.flatten(params)
  for name, module in list(model.named_modules()):
    parent, _, child = name.rpartition('.')
    if re.search(r'resnets\.\d+\.norm[12]$|conv_norm_out$', name):
      setattr(model.get_submodule(parent), child, ClipNorm(module, frames))
    if re.search(r'transformer_blocks\.0$', name):
      new = Inflated(module, frames)
      path = name.replace('_blocks.', '_blocks_', 1).replace('.', '_')
      path = re.sub(r'_transformer_blocks_0$', '/block', path)
      get = lambda key, path=path: torch.tensor(
        np.array(flat[f'{path}/{key}'].T)
      )
      new.norm_temp.weight.data = get('norm_temp/scale')
      new.norm_temp.bias.data = get('norm_temp/bias')
      for part in ('to_q', 'to_k', 'to_v'):
        getattr(new.attn_temp, part).weight.data = get(
          f'attn_temp/{part}/kernel'
        )
      new.attn_temp.to_out[0].weight.data = get('attn_temp/to_out/kernel')
      new.attn_temp.to_out[0].bias.data = get('attn_temp/to_out/bias')
      setattr(model.get_submodule(parent), child, new)
  for name, weight in model.named_parameters():
    weight.requires_grad_(bool(re.search(r'attn[12]\.to_q|attn_temp', name)))


def make(channels):
  """Returns diffusers' model, and our config and parameters of its weights."""
  torch.manual_seed(0)
  levels = len(channels)
  theirs = diffusers.UNet2DConditionModel(
    sample_size=_SIDE.value,
    block_out_channels=channels,
    layers_per_block=2,
    cross_attention_dim=_TEXT,
    attention_head_dim=_HEADS,
    down_block_types=['CrossAttnDownBlock2D'] * (levels - 1) + ['DownBlock2D'],
    up_block_types=['UpBlock2D'] + ['CrossAttnUpBlock2D'] * (levels - 1),
  ).eval()
  with tempfile.TemporaryDirectory() as folder:
    theirs.save_pretrained(folder)
    config, params = convert.load_unet(folder)
  rng = np.random.default_rng(0)
  flat = train_state.flatten(params)
  for path, value in flat.items():
    if 'attn_temp/to_out' in path:
      flat[path] = np.float32(rng.normal(0, 0.02, value.shape))
  return theirs, config, train_state.unflatten(flat)


def our_step(config, params, latents, text, noise):
  """Returns a jitted step of tuning and its initial state."""
  flat = train_state.flatten(params)
  trained = {k: v for k, v in flat.items() if _TRAINS.fullmatch(k)}
  frozen = {k: v for k, v in flat.items() if k not in trained}
  tx = optax.adamw(_LR)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(trained, state, frozen):
    def loss(trained):
      found = unet.UNet3D(config).apply(
        {'params': train_state.unflatten(trained | frozen)},
        latents,
        text,
        jnp.full(1, 500.0),
      )
      return jnp.square(found - noise).mean()

    loss, grads = jax.value_and_grad(loss)(trained)
    updates, state = tx.update(grads, state, trained)
    return optax.apply_updates(trained, updates), state, loss

  return step, jax.device_put((trained, tx.init(trained), frozen))


def main(_) -> None:
  frames, side, steps = _FRAMES.value, _SIDE.value, _STEPS.value
  model, config, params = make([int(c) for c in _CHANNELS.value])
  params = jax.device_put(params)
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  latents, noise = draw(2, 1, frames, side, side, 4)
  text, negative = draw(2, 1, _LENGTH, _TEXT)
  schedule = sampling_schedule.leading(steps)
  tensor = lambda x: torch.tensor(np.moveaxis(x, -1, 2)[0])  # [F, c, h, w]
  array = lambda x: np.moveaxis(x.numpy(), 1, -1)[None]
  their_text = torch.tensor(np.concatenate([negative, text]))

  def theirs(x, text, t):
    # Every frame gets the text of its clip.
    each = text.repeat_interleave(frames, 0)
    return model(x, torch.full(x.shape[:1], t), each).sample

  @torch.no_grad()
  def their_forward():
    return array(theirs(tensor(latents), their_text[1:], 1.0))

  still = dataclasses.replace(config, temporal=False)
  still_params = train_state.unflatten(
    {
      path: value
      for path, value in train_state.flatten(params).items()
      if '_temp/' not in path
    }
  )
  pictures = jax.jit(unet.UNet3D(still).apply)
  network = jax.jit(unet.UNet3D(config).apply)

  def our_pictures():
    found = pictures(
      {'params': still_params},
      latents[0][:, None],
      np.repeat(text, frames, 0),
      jnp.ones(frames),
    )
    return np.asarray(found).swapaxes(0, 1)

  def our_forward():
    return np.asarray(network({'params': params}, latents, text, jnp.ones(1)))

  @jax.jit
  def edit(params):
    apply = functools.partial(unet.UNet3D(config).apply, {'params': params})
    start = inversion.invert(
      guidance.guided(apply, text, None),
      latents,
      schedule,
      np.ones(steps),
      prediction='epsilon',
    )
    guided = guidance.guided(apply, text, negative)
    return samplers.ddim(
      inversion.as_velocity(guided, 'epsilon'),
      start,
      schedule,
      np.full(steps, _GUIDANCE, np.float32),
    )

  @torch.no_grad()
  def their_edit():
    x = tensor(latents)
    levels = list(zip(schedule.alpha, schedule.next_alpha, schedule.timesteps))
    for a, b, t in reversed(levels):
      x = ddim_step(x, theirs(x, their_text[1:], float(t)), b, a)
    for a, b, t in levels:
      both = theirs(torch.cat([x, x]), their_text, float(t))
      without, found = both.chunk(2)
      x = ddim_step(x, without + _GUIDANCE * (found - without), a, b)
    return array(x)

  # Before `inflate` changes diffusers' U-Net.
  rows = [measure('2-D', our_pictures, their_forward)]
  inflate(model, params, frames)
  trained = [w for w in model.parameters() if w.requires_grad]
  adam = torch.optim.AdamW(trained, lr=_LR, weight_decay=1e-4)
  step, state = our_step(config, params, latents, text, noise)

  def their_step():
    adam.zero_grad()
    found = theirs(tensor(latents), their_text[1:], 500.0)
    loss = F.mse_loss(found, tensor(noise))
    loss.backward()
    adam.step()
    return np.float32([loss.item()])

  def our_tuning():
    nonlocal state
    trained, moments, loss = step(*state)
    state = trained, moments, state[2]
    return np.asarray(loss)[None]

  rows += [
    measure('forward', our_forward, their_forward),
    measure('edit', lambda: np.asarray(edit(params)), their_edit),
    measure('step', our_tuning, their_step),
  ]
  print('| | JAX | PyTorch | PyTorch / JAX | largest difference, of max |')
  print('| --- | ---: | ---: | ---: | ---: |')
  for name, ours, others, error in rows:
    print(
      f'| {name} | {ours:.2f} s | {others:.2f} s | {others / ours:.2f} |'
      f' {error:.0e} |'
    )


def ddim_step(x, noise, a, b):
  """Returns the latents at level b, given those at level a and their noise."""
  clean = (x - (1 - a**2) ** 0.5 * noise) / a
  return b * clean + (1 - b**2) ** 0.5 * noise


def measure(name, ours, theirs):
  """Returns (name, least seconds of each, largest difference of results)."""
  found, want = ours(), theirs()
  error = np.abs(found - want).max() / np.abs(want).max()
  least = dict.fromkeys((ours, theirs), float('inf'))
  for _ in range(_CALLS.value):
    for call in least:
      start = time.perf_counter()
      call()
      least[call] = min(least[call], time.perf_counter() - start)
  return name, least[ours], least[theirs], error


if __name__ == '__main__':
  cli.run(main)
