"""The faults: one replaced piece of text each, and the tests that notice.

Short, typical mistakes of this field. They are found by name, so a fault can
be run alone: `python -m tests.faults gates`.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fault:
  """One fault.

  Attributes:
    name: What is wrong then.
    file: Path from the root of the project.
    old: Text that is in the file exactly once.
    new: Text that replaces it.
    tests: Arguments of pytest, at least one of whose tests must fail.
  """

  name: str
  file: str
  old: str
  new: str
  tests: tuple[str, ...]


_TTT = ('tests/models/test_ttt_golden.py', 'tests/models/test_dit_golden.py')
_XLA = ('tests/kernels/test_ops.py',)
_LAYERS = ('tests/models/test_mixer_layers.py',)
_WINDOWS = ('tests/kernels/test_window_attention.py',)

FAULTS = (
  Fault(
    'inner step size too large',
    'ttt_jax/models/dit/ttt.py',
    'self.base_lr / d / self.mini_batch',
    'self.base_lr / self.mini_batch',
    _TTT,
  ),
  Fault(
    'inner gradient of the wrong sign',
    'pallas_kernels/ttt_linear/xla.py',
    'return _add_affine(state, k, -g)',
    'return _add_affine(state, k, g)',
    _XLA,
  ),
  Fault(
    'gradient of the step sizes lost',
    'pallas_kernels/ttt_linear/xla.py',
    'd_eta = row_product(forward.g, d_g)[..., 0]',
    'd_eta = 0 * row_product(forward.g, d_g)[..., 0]',
    _XLA,
  ),
  Fault(
    'Muon on the weights instead of the update',
    'pallas_kernels/large_chunk_ttt/update.py',
    'w += orthogonalize(update) if muon else update',
    'w = orthogonalize(w + update) if muon else w + update',
    ('tests/kernels/test_large_chunk_ttt.py',),
  ),
  Fault(
    'a frame that does not forget',
    'pallas_kernels/frame_delta_rule/xla.py',
    'jnp.exp(g)[..., None] * inverse',
    'inverse',
    ('tests/kernels/test_frame_delta_rule.py',),
  ),
  Fault(
    'a state that a TPU rounds once per chunk',
    'pallas_kernels/xla/affine_scan.py',
    'return _matmul(a, state) + b, state',
    'return a @ state + b, state',
    ('tests/kernels/test_linear_recurrences.py',),
  ),
  Fault(
    'steps of a block combined in the wrong order',
    'pallas_kernels/xla/affine_scan.py',
    '_matmul(a, a_before)',
    '_matmul(a_before, a)',
    ('tests/kernels/test_affine_scan.py',),
  ),
  Fault(
    'decays of the gradient not reversed',
    'pallas_kernels/xla/affine_scan.py',
    'from_b[..., ::-1, ::-1]',
    'from_b',
    ('tests/kernels/test_affine_scan.py',),
  ),
  Fault(
    'rows of a triangular system subtracted without their factors',
    'pallas_kernels/xla/triangular.py',
    '-(factors[i][:, None] * inverse).sum(0)',
    '-inverse.sum(0)',
    ('tests/kernels/test_triangular.py',),
  ),
  Fault(
    "a model's own settings of sampling lost",
    'ttt_jax/pipeline/video.py',
    'self.sampling = sampling or Sampling()',
    'self.sampling = Sampling()',
    ('tests/pipeline/test_pretrained.py',),
  ),
  Fault(
    'gates of text and video swapped',
    'ttt_jax/models/dit/mixers.py',
    'jnp.where(is_text, text_gate, video_gate)',
    'jnp.where(is_text, video_gate, text_gate)',
    ('tests/models/test_dit_golden.py',),
  ),
  Fault(
    'output not permuted back',
    'ttt_jax/models/dit/mixer.py',
    'inverse = permutation and permutation.inverse',
    'inverse = permutation',
    ('tests/models/test_mixers.py',),
  ),
  Fault(
    'the reversed pass reads forwards',
    'ttt_jax/models/dit/mixers.py',
    'index = order.reverse_order if reverse else order.forward_order',
    'index = order.forward_order',
    ('tests/models/test_dit_golden.py',),
  ),
  Fault(
    'shared frames added instead of averaged',
    'ttt_jax/models/dit/attention.py',
    '(body[:, :-1, -p:] + shared[:, 1:]) / 2',
    '(body[:, :-1, -p:] + shared[:, 1:])',
    ('tests/models/test_dit_golden.py',),
  ),
  Fault(
    'rotation of the wrong sign',
    'ttt_jax/models/heads.py',
    'jnp.stack([-y[..., 1::2], y[..., ::2]], axis=-1)',
    'jnp.stack([y[..., 1::2], -y[..., ::2]], axis=-1)',
    ('tests/models/test_dit_golden.py', 'tests/models/test_ttt_golden.py'),
  ),
  Fault(
    'padding moves the inner state',
    'pallas_kernels/xla/mini_batches.py',
    'return self._where_owned(n, self.take(array, n), 0)',
    'return self.take(array, n)',
    ('tests/kernels/test_xla.py', 'tests/kernels/test_ops.py'),
  ),
  Fault(
    'tokens of a chunk see later ones',
    'pallas_kernels/gated_delta_rule/xla.py',
    'pairs = _products(q, k) * decays',
    'pairs = _products(q, k)',
    ('tests/kernels/test_linear_recurrences.py',),
  ),
  Fault(
    'no decay inside of a chunk',
    'pallas_kernels/ssd/xla.py',
    'out=(share(pairs) * decays) @ x,',
    'out=(share(pairs) * (decays > 0)) @ x,',
    ('tests/kernels/test_linear_recurrences.py',),
  ),
  Fault(
    'wrong sigma in the sampler',
    'ttt_jax/diffusion/samplers.py',
    'cast(np.sqrt(1 - alpha**2)),',
    'cast(1 - alpha),',
    ('tests/diffusion/test_samplers.py',),
  ),
  Fault(
    'guidance from the wrong side',
    'ttt_jax/diffusion/guidance.py',
    'return negative_v + scale * (text_v - negative_v)',
    'return text_v + scale * (negative_v - text_v)',
    ('tests/diffusion/test_guidance.py',),
  ),
  Fault(
    'no noise from the posterior',
    'ttt_jax/diffusion/objective.py',
    '0.5 * logvar.astype(jnp.float32)',
    '-100 + 0.5 * logvar.astype(jnp.float32)',
    ('tests/diffusion/test_objective.py',),
  ),
  Fault(
    'microbatches summed, not averaged',
    'ttt_jax/train/step.py',
    'jax.tree.map(lambda x: x / count, (loss, grads))',
    '(loss, grads)',
    ('tests/train/test_loop.py::test_microbatches_give_the_mean_gradient',),
  ),
  Fault(
    'gradients are not clipped',
    'ttt_jax/train/optimizer.py',
    'tx = optax.chain(_clip_by_global_norm(options.clip, groups), tx)',
    'pass',
    ('tests/train/test_optimizer.py',),
  ),
  Fault(
    'biases are decayed',
    'ttt_jax/train/optimizer.py',
    'return not _NO_DECAY.search(name)',
    'return True',
    ('tests/train/test_optimizer.py',),
  ),
  Fault(
    'the average never moves',
    'ttt_jax/train/step.py',
    'lambda m, p: decay * m + (1 - decay) * p',
    'lambda m, p: m',
    ('tests/train/test_step.py',),
  ),
  Fault(
    'the optimizer state never moves',
    'ttt_jax/train/step.py',
    'opt_state=opt_state,',
    'opt_state=state.opt_state,',
    ('tests/train/test_step.py',),
  ),
  Fault(
    'an optimizer state lost by a restart',
    'ttt_jax/checkpoints/checkpoint.py',
    "items['opt_state'][jax.tree_util.keystr(p)] for p, _ in paths",
    "0 * items['opt_state'][jax.tree_util.keystr(p)] for p, _ in paths",
    ('tests/checkpoints/test_checkpoint.py',),
  ),
  Fault(
    'resumes one batch late',
    'ttt_jax/data/batches.py',
    "{'next_index': state['step']}",
    "{'next_index': state['step'] + 1}",
    ('tests/data/test_batches.py',),
  ),
  Fault(
    'every epoch in the same order',
    'ttt_jax/data/batches.py',
    'np.random.SeedSequence((seed, epoch))',
    'np.random.SeedSequence((seed, 0))',
    ('tests/data/test_batches.py',),
  ),
  Fault(
    'a damaged checkpoint taken as intact',
    'ttt_jax/checkpoints/checkpoint_format.py',
    'return all(saved.get(k) == v for k, v in fingerprints(items).items())',
    'return True',
    ('tests/checkpoints',),
  ),
  Fault(
    'averaged weights not loaded',
    'ttt_jax/checkpoints/checkpoint.py',
    "state_lib.merge(items['params'], items.get('ema', {}))",
    "state_lib.merge(items['params'], {})",
    ('tests/checkpoints', 'tests/train/test_loop.py'),
  ),
  Fault(
    'weights that nobody knows are accepted',
    'ttt_jax/convert/rules.py',
    "problems.append((key, 'is not known'))",
    'pass',
    ('tests/convert/test_rules.py',),
  ),
  Fault(
    'layers of a stack in the order of the file',
    'ttt_jax/convert/rules.py',
    'for i in sorted(found[path])',
    'for i in sorted(found[path], reverse=True)',
    ('tests/convert/test_rules.py', 'tests/convert/test_dit.py'),
  ),
  Fault(
    'a clip of another source taken as done',
    'ttt_jax/data/store/writer.py',
    "if marker.get('fingerprint') != fingerprint:",
    'if not marker:',
    ('tests/data/test_precompute.py', 'tests/data/test_store.py'),
  ),
  Fault(
    'distance of words without its sign',
    'ttt_jax/models/text/t5.py',
    'return (buckets + half * (relative > 0)).astype(np.int32)',
    'return buckets.astype(np.int32)',
    ('tests/models/test_t5.py',),
  ),
  Fault(
    'text is never dropped',
    'ttt_jax/diffusion/objective.py',
    'jnp.where(dropped, null_text.astype(text.dtype), text)',
    'text',
    ('tests/diffusion/test_objective.py', 'tests/train/test_experiment.py'),
  ),
  Fault(
    'captions of separate videos joined',
    'ttt_jax/data/episodes.py',
    'if captions_lib.are_captions(value, is_rows):',
    'if False:',
    ('tests/data/test_captions.py',),
  ),
  Fault(
    'frame beyond the end of a captioned video required',
    'ttt_jax/data/episodes.py',
    'max(1, (frames + 1) // unit)',
    'max(1, frames // unit + 1)',
    ('tests/data/test_captions.py',),
  ),
  Fault(
    'chunks of an array believed',
    'ttt_jax/data/store/arrays.py',
    '.configuration.chunk_shape) != clip:',
    '.configuration.chunk_shape) is None:',
    ('tests/data/test_store.py',),
  ),
  Fault(
    'last of two equal keys taken',
    'ttt_jax/runtime/files.py',
    'if key in found:',
    'if key is found:',
    ('tests/runtime/test_files.py',),
  ),
  Fault(
    'end of a scene cut off with a long text',
    'ttt_jax/encoders/text_encoder.py',
    'min(1 + (ids[-2] in scene_token_ids), length)',
    '1',
    ('tests/encoders/test_text_cache.py',),
  ),
  Fault(
    'scenes without their beginning',
    'ttt_jax/storyboard.py',
    'texts[i] = START_SCENE + texts[i]',
    'pass',
    ('tests/test_storyboard.py',),
  ),
  Fault(
    'the previous frame is the frame itself',
    'ttt_jax/models/frames.py',
    'previous = jnp.concatenate([preceding, x[:, :-1]], axis=1)',
    'previous = x',
    ('tests/models/test_unet3d.py',),
  ),
  Fault(
    'the first frame is forgotten by the autoencoder',
    'ttt_jax/models/vae/causal_conv.py',
    'cache = jnp.repeat(prepare(*first), k - 1, axis=1)',
    'cache = jnp.repeat(0 * prepare(*first), k - 1, axis=1)',
    ('tests/models/test_vae.py',),
  ),
  Fault(
    'inversion told the wrong timestep',
    'ttt_jax/diffusion/inversion.py',
    'jnp.asarray(schedule.timesteps[::-1], jnp.float32)',
    'jnp.asarray(schedule.timesteps, jnp.float32)',
    ('tests/diffusion/test_inversion.py',),
  ),
  Fault(
    'a cut that is not in the middle',
    'ttt_jax/video/resize.py',
    '(w - box_width) / 2, (h - box_height) / 2',
    '0, 0',
    ('tests/video',),
  ),
  Fault(
    'a user error with the wrong status',
    'ttt_jax/runtime/cli.py',
    'def _fail(message: object, status: int = 2)',
    'def _fail(message: object, status: int = 1)',
    ('tests/runtime/test_cli.py',),
  ),
  Fault(
    'keys of the padding are attended to',
    'pallas_kernels/window_attention/tpu_forward.py',
    'keys[h, at, :] = jnp.where(own, x, mask)',
    'keys[h, at, :] = jnp.where(own, x, 0 * mask)',
    _WINDOWS,
  ),
  Fault(
    'large scores without a maximum',
    'pallas_kernels/window_attention/tpu_tiling.py',
    'LARGEST_SCORE = 100.0',
    'LARGEST_SCORE = 1e9',
    _WINDOWS,
  ),
  Fault(
    'cotangent of a shared frame counted twice',
    'pallas_kernels/window_attention/tpu_backward.py',
    'd * jnp.asarray(0.5, d.dtype)',
    'd * jnp.asarray(1.0, d.dtype)',
    _WINDOWS,
  ),
  Fault(
    'gradient of a norm without its mean',
    'pallas_kernels/window_attention/tpu_rows.py',
    'd_x = d_standard - mean(d_standard) - standard',
    'd_x = d_standard - standard',
    _WINDOWS,
  ),
  Fault(
    'error of the clean latents without its weight',
    'ttt_jax/diffusion/objective.py',
    'error = (predicted - x0) / _per_sample(_sigma(alpha), x0)',
    'error = predicted - x0',
    ('tests/diffusion/test_objective.py',),
  ),
  Fault(
    'clean latents taken for the velocity',
    'ttt_jax/diffusion/inversion.py',
    'return (alpha * x - predicted) / sigma',
    'return predicted',
    ('tests/diffusion/test_inversion.py',),
  ),
  Fault(
    'late blocks forgotten where they are reused',
    'ttt_jax/models/dit/late_blocks.py',
    'early, *inputs, has_head=False) + added',
    'early, *inputs, has_head=False) + 0 * added',
    ('tests/pipeline/test_video.py',),
  ),
  Fault(
    'queries of Gated DeltaNet without their scale',
    'ttt_jax/models/dit/gated_deltanet.py',
    '(q * self.key_dim**-0.5)',
    '(q)',
    _LAYERS,
  ),
  Fault(
    'a gate through sigmoid instead of SiLU',
    'ttt_jax/models/dit/gated_deltanet.py',
    'nn.silu(split(gate)',
    'nn.sigmoid(split(gate)',
    _LAYERS,
  ),
  Fault(
    'queries and keys of any length',
    'ttt_jax/models/dit/gated_deltanet.py',
    'mixer.l2_norm(y, self.epsilon), local',
    'y, local',
    _LAYERS,
  ),
  Fault(
    'written twice as strongly',
    'ttt_jax/models/dit/gated_deltanet.py',
    '(nn.sigmoid(beta), g)',
    '(2 * nn.sigmoid(beta), g)',
    _LAYERS,
  ),
  Fault(
    'rates of decay drawn from another range',
    'ttt_jax/models/dit/gated_deltanet.py',
    'log_rate_init(1e-6)',
    'log_rate_init(1.0)',
    _LAYERS,
  ),
  Fault(
    'softplus of the initial steps not inverted',
    'ttt_jax/models/dit/mixer.py',
    'return step + jnp.log(-jnp.expm1(-step))',
    'return step',
    _LAYERS,
  ),
  Fault(
    'norm of Mamba 2 before its gate',
    'ttt_jax/models/dit/mamba2.py',
    'self._group_norm(out * nn.silu(gate.astype(scale.dtype)))',
    'self._group_norm(out) * nn.silu(gate.astype(scale.dtype))',
    _LAYERS,
  ),
  Fault(
    'direct path of Mamba 2 lost',
    'ttt_jax/models/dit/mamba2.py',
    '        skip,\n',
    '        0 * skip,\n',
    _LAYERS,
  ),
  Fault(
    'a window as long as the sequence',
    'ttt_jax/models/dit/global_attention.py',
    'return min(length, config.window_size)',
    'return length',
    _LAYERS,
  ),
  Fault(
    'keys and values convolved by the same kernels',
    'ttt_jax/models/dit/frame_deltanet.py',
    'features(v, *convolutions[2:])',
    'features(v, *convolutions[:2])',
    _LAYERS,
  ),
  Fault(
    'gradient of a convolution not turned around',
    'ttt_jax/models/dit/frame_deltanet.py',
    'tuple(-i for i in place)',
    'tuple(i for i in place)',
    _LAYERS,
  ),
  Fault(
    'identity added to initial weights complete',
    'ttt_jax/models/dit/large_chunk_ttt.py',
    '0.5 * jnp.eye(k, d)',
    'jnp.eye(k, d)',
    _LAYERS,
  ),
  Fault(
    'chunks that end within a tile',
    'ttt_jax/models/dit/large_chunk_ttt.py',
    'round(tokens / _TILE) * _TILE',
    'tokens',
    ('tests/models/test_mixers.py',),
  ),
)
