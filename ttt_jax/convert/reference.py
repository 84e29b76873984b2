"""The transformer in the layout of the paper's code: one file, one config."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from ttt_jax.checkpoints import train_state
from ttt_jax.convert import model_format
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert.rules import Rule
from ttt_jax.models import dit
from ttt_jax.models.dit import mixers
from ttt_jax.models.dit import ttt as ttt_lib

_BLOCK = 'dit.layers.{i}'
_SEQ = f'{_BLOCK}.seq_modeling_block'

# Name in their config -> our field.
_FIELDS = {
  'model_dim': 'model_dim',
  'num_heads': 'num_heads',
  'num_layers': 'num_layers',
  'time_embed_dim': 'time_embed_dim',
  'text_dim': 'text_dim',
  'in_channels': 'in_channels',
  'out_channels': 'out_channels',
  'patch_size': 'patch_size',
  'attn_length': 'segment_latent_frames',
  'ssm_layer': 'mixer',
  'mini_batch_size': 'mini_batch',
  'ttt_base_lr': 'ttt_base_lr',
  'gating_alpha_init': 'gate_init',
  'layer_norm_eps': 'norm_eps',
  'rope_theta': 'rope_theta',
}


def rules(config: dit.DiTConfig) -> list[Rule]:
  """Returns the rules for a model of these sizes."""
  m, p, c = config.model_dim, config.patch_size, config.out_channels
  out = [
    *rules_lib.dense('dit.time_embed.0', 'time_1'),
    *rules_lib.dense('dit.time_embed.2', 'time_2'),
    # A dense layer over patches; published with the channels first.
    Rule(
      'dit.patch_embedding.vid_proj.weight',
      'patch/kernel',
      (2, 3, 1, 0),
      view=(m, config.in_channels, p, p),
    ),
    Rule('dit.patch_embedding.vid_proj.bias', 'patch/bias'),
    *rules_lib.dense('dit.patch_embedding.text_proj', 'text'),
    *rules_lib.norm('dit.transformer_norm', 'norm'),
    *rules_lib.norm('dit.final_layer.norm', 'final_norm'),
    *rules_lib.dense('dit.final_layer.adaLN_modulation.1', 'final_modulation'),
    *output('dit.final_layer.linear', p, c, m),
    *rules_lib.dense(f'{_BLOCK}.mlp.layer1', 'layers/mlp/up'),
    *rules_lib.dense(f'{_BLOCK}.mlp.layer2', 'layers/mlp/down'),
  ]
  for ours in ('seq', 'mlp'):
    theirs = f'{_BLOCK}.pre_{ours}'
    out += rules_lib.norm(f'{theirs}_layernorm', f'layers/{ours}_norm')
    out += rules_lib.dense(
      f'{theirs}_adaLN_modulation.1', f'layers/{ours}_modulation/dense'
    )
  for name in 'qkvo':
    out += rules_lib.dense(f'{_SEQ}.{name}', f'layers/seq/attn/{name}')
  for name in 'qk':
    out += rules_lib.norm(f'{_SEQ}.{name}_norm', f'layers/seq/attn/{name}_norm')
  return out + mixer_rules(config, _SEQ)


def output(source: str, patch: int, channels: int, dim: int) -> list[Rule]:
  """Returns the rules of the last layer, published with the channels first."""
  features = channels * patch**2
  return [
    Rule(
      f'{source}.weight',
      'final/kernel',
      (3, 1, 2, 0),
      view=(channels, patch, patch, dim),
      shape=(features, dim),
    ),
    Rule(
      f'{source}.bias',
      'final/bias',
      (1, 2, 0),
      view=(channels, patch, patch),
      shape=(features,),
    ),
  ]


def mixer_rules(config: dit.DiTConfig, source: str) -> list[Rule]:
  """Returns the rules of mixer and gates, given their names' prefix.

  TTT layers have the paper's names, other mixers the names of our parameters.
  """
  scope = mixers.MIXERS[config.mixer].scope
  gates = [
    Rule(
      f'{source}.{theirs}_ssm_gating_{kind}.gating_alpha',
      f'layers/seq/gates/{ours}_{kind}',
    )
    for ours, theirs in (('forward', 'forward'), ('reverse', 'backward'))
    for kind in ('text', 'video')
  ]
  if scope == ttt_lib.TTT.scope:
    return gates + _ttt_rules(config, source)
  prefix = f'layers/seq/{scope}/'
  paths = [
    path.removeprefix(prefix)
    for path in train_state.flatten(dit.abstract_params(config))
    if path.startswith(prefix)
  ]
  return gates + [
    Rule(f'{source}.{scope}.{path.replace("/", ".")}', prefix + path)
    for path in paths
  ]


def _ttt_rules(config, source):
  m, heads = config.model_dim, config.num_heads
  d = m // heads
  inner = ttt_lib.INNER_MODELS[config.mixer]
  shapes = {name: shape(d) for name, shape, _ in inner.weights}
  ttt = f'{source}.ssm.ttt'
  out = []
  for name in 'qkvo':
    out += rules_lib.dense(f'{ttt}.w{name}', f'layers/seq/ttt/{name}')
  return out + [
    *rules_lib.norm(f'{ttt}.post_norm', 'layers/seq/ttt/post_norm'),
    Rule(f'{ttt}.ttt_norm_weight', 'layers/seq/ttt/ln_scale'),
    Rule(f'{ttt}.ttt_norm_bias', 'layers/seq/ttt/ln_bias'),
    Rule(
      f'{ttt}.learnable_ttt_lr_weight',
      'layers/seq/ttt/lr/kernel',
      (2, 0, 1),
      view=(heads, 1, m),
    ),
    Rule(
      f'{ttt}.learnable_ttt_lr_bias',
      'layers/seq/ttt/lr/bias',
      (0, 1),
      view=(heads, 1),
    ),
    Rule(f'{ttt}.W1', 'layers/seq/ttt/w1'),
    Rule(
      f'{ttt}.b1',
      'layers/seq/ttt/b1',
      (0, 1, 2),
      view=(heads, 1, *shapes['b1']),
    ),
    Rule(f'{ttt}.W2', 'layers/seq/ttt/w2'),
    Rule(f'{ttt}.b2', 'layers/seq/ttt/b2', (0, 1, 2), view=(heads, 1, d)),
  ]


def load_reference(
  weights: str | os.PathLike[str], config: str | os.PathLike[str]
) -> tuple[dit.DiTConfig, dict[str, Any]]:
  """Loads a transformer with the key names of the paper's code.

  Outputs agree for one scene. For several they differ, because the paper's
  code assigns the learned step sizes of the inner loop to other tokens.

  Args:
    weights: Path of the safetensors file, with keys 'dit. ...'.
    config: Path of the JSON file with the fields of their ModelConfig.

  Returns:
    The config and float32 parameters.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the file is damaged or does not fit the config.
  """
  theirs = model_format.read_object(config)
  fields = {
    ours: theirs[name] for name, ours in _FIELDS.items() if name in theirs
  }
  # Their norms share one epsilon.
  fields['qk_norm_eps'] = fields['norm_eps']
  ours = dit.DiTConfig(**fields)
  flat = train_state.flatten(dit.abstract_params(ours))
  params = rules_lib.import_params(
    rules(ours),
    safetensors_reader.open_file(weights),
    {path: leaf.shape for path, leaf in flat.items()},
    pathlib.Path(weights).name,
    dtype=np.float32,
  )
  return ours, params
