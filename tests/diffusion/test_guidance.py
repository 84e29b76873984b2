"""Guidance schedules and the guided network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax.diffusion import guidance


@pytest.mark.parametrize('steps', [20, 50])
def test_schedules_are_the_reference_numbers(golden, steps):
  data = np.load(golden('schedule_sampler.npz'))
  timesteps = data[f'timesteps_{steps}'][::-1]
  for given in (timesteps, timesteps.astype(np.float32), None):
    np.testing.assert_allclose(
      guidance.reference(6.0, steps, given),
      data[f'cfg_scale_{steps}_as_called'],
      rtol=0,
      atol=1e-6,
    )
  np.testing.assert_allclose(
    guidance.cosine(6.0, steps, timesteps),
    data[f'cfg_scale_{steps}_nominal'],
    rtol=0,
    atol=1e-6,
  )


def test_schedules_have_their_documented_form():
  np.testing.assert_array_equal(guidance.constant(2.5, 3), [2.5, 2.5, 2.5])
  ramp = guidance.cosine(6.0, 40)
  assert ramp.dtype == np.float64
  assert ramp[0] == 1 and np.all(np.diff(ramp) >= 0) and 6 < ramp[-1] < 7
  jumps = guidance.reference(6.0, 40)
  assert np.all((jumps >= 1) & (jumps <= 7))
  assert np.any(np.diff(jumps) < -1) and np.any(np.diff(jumps) > 1)


def test_no_guidance_is_recognised():
  assert guidance.is_off(guidance.constant(1.0, 4))
  assert guidance.is_off(guidance.cosine(0.0, 4))
  assert not guidance.is_off(guidance.cosine(1.0, 4))


def _apply(calls):
  def apply(x, text, t):
    calls.append(x.shape[0])
    shift = jnp.sum(text, axis=(1, 2, 3)) * (1 + t / 1000)
    return x * 0.3 + shift[:, None, None, None, None]

  return apply


def _inputs():
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, 3, 2, 2, 4))
  text, negative = jax.random.normal(keys[1], (2, 2, 2, 3, 5))
  return x, text, negative, jnp.array([500.0, 20.0])


def test_one_batched_call_equals_two():
  x, text, negative, t = _inputs()
  calls = []
  apply = _apply(calls)
  out = guidance.guided(apply, text, negative)(x, t, jnp.float32(3.5))
  assert calls == [4]
  below, above = apply(x, negative, t), apply(x, text, t)
  np.testing.assert_allclose(
    out, below + 3.5 * (above - below), rtol=1e-5, atol=1e-5
  )


def test_without_negative_text_there_is_one_plain_call():
  x, text, negative, t = _inputs()
  calls = []
  apply = _apply(calls)
  plain = guidance.guided(apply, text, None)(x, t, jnp.float32(1))
  assert calls == [2]
  np.testing.assert_allclose(
    plain,
    guidance.guided(apply, text, negative)(x, t, jnp.float32(1)),
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize(
  'call,message',
  [
    (
      lambda: guidance.schedule('linear'),
      'expected one of constant, cosine, reference',
    ),
    (lambda: guidance.constant(6.0, 0), '1 to 1000'),
    (lambda: guidance.cosine(float('inf'), 5), 'finite'),
    (lambda: guidance.reference(6.0, 5, np.arange(4)), r'must be \(5,\)'),
    (
      lambda: guidance.guided(
        None, np.ones((1, 1, 2, 3)), np.ones((1, 2, 2, 3))
      ),
      'must be equal',
    ),
  ],
)
def test_bad_input_is_one_line(call, message):
  with pytest.raises(ValueError, match=message) as error:
    call()
  assert '\n' not in str(error.value)
