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
_TRAIN = ('tests/train/test_loop.py', 'tests/train/test_step.py')

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
    'gates of text and video swapped',
    'ttt_jax/models/dit/mixers.py',
    'jnp.where(is_text, text_gate, video_gate)',
    'jnp.where(is_text, video_gate, text_gate)',
    ('tests/models/test_dit_golden.py',),
  ),
  Fault(
    'output not permuted back',
    'ttt_jax/models/dit/ttt.py',
    'out = permute_rows(out, permutation.inverse',
    'out = permute_rows(out, permutation',
    ('tests/models',),
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
    'decay inside of a chunk dropped',
    'pallas_kernels/gated_delta_rule/xla.py',
    'pairs=_products(q, k) * decays,',
    'pairs=_products(q, k) * (decays > 0),',
    ('tests/kernels/test_linear_recurrences.py',),
  ),
  Fault(
    'state space reads before it writes',
    'pallas_kernels/ssd/xla.py',
    'out=(share(pairs) * decays) @ x,',
    'out=(share(pairs) * decays) @ x - share(pairs * 0)[..., :1] - x,',
    ('tests/kernels/test_linear_recurrences.py',),
  ),
  Fault(
    'wrong sigma in the sampler',
    'ttt_jax/diffusion/samplers.py',
    'cast(np.sqrt(1 - alpha**2)),',
    'cast(1 - alpha),',
    ('tests/diffusion',),
  ),
  Fault(
    'guidance from the wrong side',
    'ttt_jax/diffusion/guidance.py',
    'return negative_v + scale * (text_v - negative_v)',
    'return text_v + scale * (negative_v - text_v)',
    ('tests/diffusion', 'tests/pipeline/test_video.py'),
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
    _TRAIN[:1],
  ),
  Fault(
    'gradients are not clipped',
    'ttt_jax/train/optimizer.py',
    "tx = optax.chain(optax.clip_by_global_norm(config['clip']), tx)",
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
    ('tests/train',),
  ),
  Fault(
    'a lost optimizer state',
    'ttt_jax/train/step.py',
    'opt_state=opt_state,',
    'opt_state=state.opt_state,',
    ('tests/train',),
  ),
  Fault(
    'resumes one batch late',
    'ttt_jax/data/batches.py',
    "{'next_index': int(state['step'])}",
    "{'next_index': int(state['step']) + 1}",
    ('tests/data/test_batches.py',),
  ),
  Fault(
    'every epoch in the same order',
    'ttt_jax/data/batches.py',
    'np.random.SeedSequence((seed, epoch))',
    'np.random.SeedSequence((seed, 0))',
    ('tests/data/test_batches.py',),
  ),
)
