"""Weights in the layouts of others, to and from our parameters."""

from ttt_jax.convert.reference import load_reference
from ttt_jax.convert.vae import load_vae
from ttt_jax.convert.vae import save_vae

__all__ = ('load_reference', 'load_vae', 'save_vae')
