"""Ops of test-time training and linear recurrences: arrays in, arrays out."""

from pallas_kernels.frame_delta_rule.api import frame_delta_rule
from pallas_kernels.gated_delta_rule.api import gated_delta_rule
from pallas_kernels.large_chunk_ttt.api import large_chunk_ttt
from pallas_kernels.large_chunk_ttt.api import large_chunk_ttt_inner_losses
from pallas_kernels.permute_rows.api import permute_rows
from pallas_kernels.permute_rows.permutation import Permutation
from pallas_kernels.ssd.api import ssd
from pallas_kernels.ttt_inputs.api import ttt_inputs
from pallas_kernels.ttt_linear.api import ttt_linear
from pallas_kernels.ttt_linear.api import ttt_linear_inner_losses
from pallas_kernels.ttt_mlp.api import ttt_mlp
from pallas_kernels.ttt_mlp.api import ttt_mlp_inner_losses
from pallas_kernels.window_attention.api import window_attention

__all__ = [
  'Permutation',
  'frame_delta_rule',
  'gated_delta_rule',
  'large_chunk_ttt',
  'large_chunk_ttt_inner_losses',
  'permute_rows',
  'ssd',
  'ttt_inputs',
  'ttt_linear',
  'ttt_linear_inner_losses',
  'ttt_mlp',
  'ttt_mlp_inner_losses',
  'window_attention',
]
