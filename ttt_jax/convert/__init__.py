"""Weights in Hugging Face layouts, to and from our parameters."""

from ttt_jax.convert.vae import load_vae
from ttt_jax.convert.vae import save_vae

__all__ = ('load_vae', 'save_vae')
