"""Weights in the layouts of others, to and from our parameters."""

from ttt_jax.convert.dit import load_dit
from ttt_jax.convert.dit import save_dit
from ttt_jax.convert.reference import load_reference
from ttt_jax.convert.t5 import load_t5
from ttt_jax.convert.t5 import save_t5
from ttt_jax.convert.vae import load_vae
from ttt_jax.convert.vae import save_vae

__all__ = (
    'load_dit',
    'load_reference',
    'load_t5',
    'load_vae',
    'save_dit',
    'save_t5',
    'save_vae',
)
