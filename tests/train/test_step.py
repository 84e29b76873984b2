"""The training step is the optimizer's update, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ttt_jax.checkpoints import train_state
from ttt_jax.train import optimizer
from ttt_jax.train import step as step_lib

STEPS = 4
DECAY = 0.3


def loss_fn(params, batch, key):
  """A regression whose gradient differs in every step."""
  noise = jax.random.normal(key, batch['x'].shape)
  y = (batch['x'] + noise) @ (params['frozen'] + params['w']) + params['b']
  losses = jnp.square(y - batch['y']).mean(-1)
  return losses.mean(), (losses, jnp.arange(len(losses)))


def test_steps_are_those_of_adamw_with_clipping_and_a_moving_average():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  params = dict(frozen=draw(3, 2), w=draw(3, 2), b=draw(2))
  batches = [dict(x=draw(5, 3), y=draw(5, 2)) for _ in range(STEPS)]
  made = optimizer.make_optimizer(
    dict(
      groups=[('frozen', None), ('.*', dict(lr=0.1, weight_decay=0.5))],
      clip=0.7,
    ),
    params,
    STEPS,
  )
  step = jax.jit(step_lib.make_step(loss_fn, made, seed=9, ema_decay=DECAY))
  state = train_state.create(params, made.tx, made.trainable)

  trained = {name: params[name] for name in ('w', 'b')}
  average = trained
  tx = optax.chain(
    optax.clip_by_global_norm(0.7),
    optax.adamw(
      0.1,
      b1=0.9,
      b2=0.95,
      weight_decay=0.5,
      mask=dict(w=True, b=False),
    ),
  )
  opt_state = tx.init(trained)
  clipped = 0
  for i, batch in enumerate(batches):
    key = step_lib.step_key(9, i, step_lib.RngStream.LOSS)
    (loss, _), grads = jax.value_and_grad(
      lambda p, batch=batch, key=key: loss_fn(
        p | {'frozen': params['frozen']}, batch, key
      ),
      has_aux=True,
    )(trained)
    clipped += optax.tree.norm(grads) > 0.7
    updates, opt_state = tx.update(grads, opt_state, trained)
    trained = optax.apply_updates(trained, updates)
    decay = min(DECAY, (1 + i) / (10 + i))
    average = jax.tree.map(
      lambda m, p, d=decay: d * m + (1 - d) * p, average, trained
    )

    state, metrics = step(state, batch)
    np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
    want = dict(params=trained | {'frozen': params['frozen']}, ema=average)
    got = dict(params=state.params, ema=state.ema)
    jax.tree.map(
      lambda g, w: np.testing.assert_allclose(g, w, rtol=2e-5, atol=1e-6),
      got,
      want,
    )
    assert state.step == i + 1
  # The statement would be weaker if nothing had been clipped.
  assert clipped
