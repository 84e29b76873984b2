"""Our transformer against diffusers': random configs, both directions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax import convert
from ttt_jax.models import dit

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

embeddings = pytest.importorskip('diffusers.models.embeddings')
pipeline_cogvideox = pytest.importorskip(
  'diffusers.pipelines.cogvideo.pipeline_cogvideox'
)

SEEDS = range(8)


def draw(seed):
  """Returns the sizes of a model, rotary if `seed` is even, and of latents."""
  rng = np.random.default_rng(seed)
  pick = lambda *choices: choices[rng.integers(len(choices))]
  patch, segment = pick(1, 2, 2), pick(1, 2, 3)
  rows, columns = int(rng.integers(2, 5)), int(rng.integers(2, 6))
  channels = pick(4, 16)
  config = dict(
    num_attention_heads=pick(1, 2, 3),
    attention_head_dim=pick(16, 32, 64),
    num_layers=pick(1, 2, 3),
    time_embed_dim=pick(8, 24),
    text_embed_dim=pick(10, 32),
    in_channels=channels,
    out_channels=channels,
    patch_size=patch,
    max_text_seq_length=pick(3, 7),
    sample_frames=4 * segment + 1,
    sample_height=rows * patch,
    sample_width=columns * patch,
    norm_eps=pick(1e-5, 1e-3),
    spatial_interpolation_scale=pick(1.875, 1.0),
    temporal_interpolation_scale=pick(1.0, 2.0),
    use_rotary_positional_embeddings=seed % 2 == 0,
  )
  # The size of pre-training, a wider and a flatter one.
  sizes = [(rows, columns), (rows, columns + 3), (rows + 2, columns)]
  return config, sizes


def their_model(config, seed):
  """Returns a model with random weights, including gates and norms."""
  torch.manual_seed(seed)
  model = diffusers.CogVideoXTransformer3DModel(**config).eval()
  for weight in model.parameters():
    weight.add_(0.1 * torch.randn_like(weight))
  return model


def their_rotary_embedding(config, rows, columns, frames):
  """Returns the rotary embedding as diffusers' pipeline computes it."""
  p = config.patch_size
  return embeddings.get_3d_rotary_pos_embed(
    config.attention_head_dim,
    pipeline_cogvideox.get_resize_crop_region_for_grid(
      (rows, columns), config.sample_width // p, config.sample_height // p
    ),
    (rows, columns),
    frames,
  )


def compare(config, params, model, sizes, seed):
  """Compares both on the same inputs; diffusers computes in float64."""
  theirs = model.config
  network = jax.jit(dit.DiffusionTransformer(config).apply)
  model = model.double()
  rng = np.random.default_rng(seed)
  frames = config.segment_latent_frames + 1
  for rows, columns in sizes:
    latents = rng.normal(
      size=(
        2,
        frames,
        theirs.in_channels,
        rows * theirs.patch_size,
        columns * theirs.patch_size,
      )
    ).astype(np.float32)
    text = rng.normal(
      size=(2, theirs.max_text_seq_length, theirs.text_embed_dim)
    ).astype(np.float32)
    time = rng.integers(0, 1000, 2)
    turns = None
    if theirs.use_rotary_positional_embeddings:
      turns = their_rotary_embedding(theirs, rows, columns, frames)
    wanted = model(
      torch.tensor(latents).double(),
      torch.tensor(text).double(),
      torch.tensor(time),
      image_rotary_emb=turns,
    ).sample.numpy()
    ours = network(
      {'params': params},
      np.moveaxis(latents, 2, -1),
      text[:, None],
      np.float32(time),
    )
    error = np.abs(np.moveaxis(np.asarray(ours), -1, 2) - wanted).max()
    assert error < 2e-5 * np.abs(wanted).max(), (rows, columns)


@pytest.mark.parametrize('seed', SEEDS)
def test_we_load_their_folder(seed, tmp_path):
  config, sizes = draw(seed)
  model = their_model(config, seed)
  model = model.to(torch.bfloat16 if seed % 3 == 0 else torch.float32)
  # Even the smallest models become several files.
  model.save_pretrained(
    tmp_path, max_shard_size='40KB' if seed % 4 < 2 else '10GB'
  )
  ours, params = convert.load_dit(tmp_path)
  assert {x.dtype for x in jax.tree.leaves(params)} == {
    jnp.dtype(jnp.bfloat16 if seed % 3 == 0 else jnp.float32)
  }
  # In float32 again, because bfloat16 rounded their table of positions too.
  model = diffusers.CogVideoXTransformer3DModel.from_pretrained(tmp_path)
  compare(ours, params, model, sizes, seed)


@pytest.mark.parametrize('seed', (2, 5))
@pytest.mark.parametrize('mixer', ['ttt_mlp', 'ttt_linear'])
def test_ttt_layers_with_gates_of_zero(mixer, seed, tmp_path):
  config, sizes = draw(seed)
  model = their_model(config, seed)
  model.save_pretrained(tmp_path)
  ours, params = convert.load_dit(tmp_path, mixer=mixer, mini_batch=8)
  gates = params['layers']['seq']['gates']
  params['layers']['seq']['gates'] = jax.tree.map(np.zeros_like, gates)
  compare(ours, params, model, sizes[:1], seed)


@pytest.mark.parametrize('seed', SEEDS)
def test_they_load_our_folder(seed, tmp_path):
  config, sizes = draw(seed + 100)
  their_model(config, seed).save_pretrained(tmp_path / 'sizes')
  ours, _ = convert.load_dit(tmp_path / 'sizes')
  # diffusers must ignore the TTT layers.
  ours = dataclasses.replace(ours, mixer='ttt_mlp' if seed % 2 else 'none')
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda x: rng.normal(scale=0.1, size=x.shape).astype(np.float32),
    dit.abstract_params(ours),
  )
  convert.save_dit(
    ours,
    params,
    tmp_path / 'ours',
    shard_bytes=40_000 if seed % 4 < 2 else 10**10,
  )
  model, told = diffusers.CogVideoXTransformer3DModel.from_pretrained(
    tmp_path / 'ours', output_loading_info=True
  )
  assert not any(told.values()), told
  plain = dataclasses.replace(ours, mixer='none')
  compare(plain, params, model.eval(), sizes, seed)


def test_round_trip_of_their_weights(tmp_path):
  config, _ = draw(0)
  model = their_model(config, 0).bfloat16()
  model.save_pretrained(tmp_path / 'theirs')
  convert.save_dit(*convert.load_dit(tmp_path / 'theirs'), tmp_path / 'ours')
  again = diffusers.CogVideoXTransformer3DModel.from_pretrained(
    tmp_path / 'ours', torch_dtype=torch.bfloat16
  )
  for name, value in model.state_dict().items():
    found = again.state_dict()[name]
    assert found.dtype == value.dtype == torch.bfloat16
    assert torch.equal(found, value), name
