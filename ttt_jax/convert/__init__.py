"""Conversion of weights between published layouts and our parameters."""

from ttt_jax.convert.clip import load_clip
from ttt_jax.convert.clip import save_clip
from ttt_jax.convert.clip_model import load_clip_model
from ttt_jax.convert.dit import load_dit
from ttt_jax.convert.dit import save_dit
from ttt_jax.convert.kl_vae import load_kl_vae
from ttt_jax.convert.kl_vae import save_kl_vae
from ttt_jax.convert.reference import load_reference
from ttt_jax.convert.t5 import load_t5
from ttt_jax.convert.t5 import save_t5
from ttt_jax.convert.unet import load_unet
from ttt_jax.convert.unet import save_unet
from ttt_jax.convert.vae import load_vae
from ttt_jax.convert.vae import save_vae

__all__ = (
  'load_clip',
  'load_clip_model',
  'load_dit',
  'load_kl_vae',
  'load_reference',
  'load_t5',
  'load_unet',
  'load_vae',
  'save_clip',
  'save_dit',
  'save_kl_vae',
  'save_t5',
  'save_unet',
  'save_vae',
)
