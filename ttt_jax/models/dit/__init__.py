"""The diffusion transformer: CogVideoX with a global mixer in every block."""

from ttt_jax.models.dit.config import ADDED_FIELDS as ADDED_FIELDS
from ttt_jax.models.dit.config import DiTConfig as DiTConfig
from ttt_jax.models.dit.late_blocks import LateBlocks as LateBlocks
from ttt_jax.models.dit.model import abstract_params as abstract_params
from ttt_jax.models.dit.model import (
  DiffusionTransformer as DiffusionTransformer,
)
from ttt_jax.models.dit.model import inference_params as inference_params
from ttt_jax.models.dit.model import init_params as init_params
