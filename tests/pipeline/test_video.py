"""ttt_jax/pipeline/video.py: storyboard to frames, with tiny random models."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.helpers import compiler
from tests.helpers import tiny_pipeline
from tests.helpers.tiny_pipeline import story
from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import samplers
from ttt_jax.diffusion import sampling_schedule
from ttt_jax.models import dit


@pytest.fixture(scope='module')
def pipe():
  return tiny_pipeline.make()


def test_a_list_of_texts_and_a_dict_are_storyboards(pipe, capsys):
  frames = pipe(story('a dog', 'it runs'), steps=2, progress=False)
  assert capsys.readouterr().out == ''
  assert frames.shape == (17, 16, 16, 3)
  assert frames.dtype == np.uint8 and frames.fps == 16
  steps = []
  again = pipe(['a dog', 'it runs'], steps=2, on_step=steps.append)
  np.testing.assert_array_equal(frames, again)
  assert sorted(steps) == [1, 2]
  assert 'sampling: 2/2 decoding' in capsys.readouterr().out
  obj = dict(
    shots=dict(dog=dict(text='a dog')), segments=['dog', dict(text='it runs')]
  )
  np.testing.assert_array_equal(frames, pipe(obj, steps=2))


def test_seed_text_and_negative_text_each_matter(pipe):
  sample = lambda *a, **kw: np.asarray(
    pipe.sample_latents(*a, **(dict(steps=2, guidance=2.0) | kw))
  )
  first = sample(story('a dog', 'it runs'))
  np.testing.assert_array_equal(first, sample(story('a dog', 'it runs')))
  assert not np.array_equal(first, sample(story('a dog', 'it runs'), seed=1))
  assert not np.array_equal(first, sample(story('a dog', 'it sits')))
  assert not np.array_equal(
    first, sample(story('a dog', 'it runs', negative='blur'))
  )


def test_equals_the_sampler_with_two_separate_guidance_calls(pipe):
  module = dit.DiffusionTransformer(pipe.config)
  board = story('a dog', 'it runs', negative='blur')
  text, negative = (
    pipe.text_encoder.encode(t)[None]
    for t in (board.prompts(), board.negatives())
  )
  apply = lambda x, text, t: module.apply({'params': pipe.params}, x, text, t)

  def network(x, t, scale):
    against = apply(x, negative, t)
    return against + scale * (apply(x, text, t) - against)

  key = jax.random.key(5)
  schedule = sampling_schedule.from_name('diffusers', 3)
  expected = samplers.ddim(
    network,
    jax.random.normal(jax.random.fold_in(key, 0), (1, 5, 2, 2, 4)),
    schedule,
    guidance.constant(2.0, 3),
  )
  found = pipe.sample_latents(
    board,
    steps=3,
    guidance=2.0,
    seed=5,
    scheduler='cogvideox_ddim',
    guidance_schedule='constant',
  )
  np.testing.assert_allclose(found, expected, atol=2e-4)


def test_steps_in_between_reuse_what_the_late_blocks_added(pipe):
  config, params = pipe.config, pipe.params
  late = dit.LateBlocks(config)
  compute, reuse = jax.jit(late.compute), jax.jit(late.reuse)
  model = jax.jit(dit.DiffusionTransformer(config).apply)
  text = pipe.text_encoder.encode(['a dog'])[None]
  added, kinds = None, []

  def network(x, t, scale):
    nonlocal added
    del scale
    # Steps 0 and 2 compute the late blocks, and the last one.
    is_new = len(kinds) in (0, 2, 3)
    kinds.append(is_new)
    if not is_new:
      return reuse(params, x, text, t, added)
    prediction, added = compute(params, x, text, t)
    np.testing.assert_allclose(
      prediction, model({'params': params}, x, text, t), atol=1e-5
    )
    again = reuse(params, x, text, t, added)
    np.testing.assert_allclose(again, prediction, atol=1e-5)
    return prediction

  schedule = sampling_schedule.from_name('diffusers', 4)
  table = samplers.table(
    schedule, np.ones(4), samplers.ddim_coefficients(schedule)
  )
  noise = jax.random.fold_in(jax.random.key(5), 0)
  x = jax.random.normal(noise, (1, 3, 2, 2, 4))
  previous = 0 * x
  for i in range(4):
    numbers = jax.tree.map(lambda values, i=i: values[i], table)
    x, previous = samplers.step(network, x, previous, numbers, None)
  options = dict(seed=5, guidance=1.0, guidance_schedule='constant', steps=4)
  options.update(scheduler='cogvideox_ddim')
  found = pipe.sample_latents(story('a dog'), reuse=2, **options)
  np.testing.assert_allclose(found, x, atol=2e-5)
  exact = pipe.sample_latents(story('a dog'), **options)
  assert np.abs(found - exact).max() > 1e-4
  # The first and the last of two steps are computed.
  options.update(steps=2)
  np.testing.assert_allclose(
    pipe.sample_latents(story('a dog'), reuse=2, **options),
    pipe.sample_latents(story('a dog'), **options),
    atol=1e-5,
  )


def test_there_must_be_late_blocks_to_reuse(pipe):
  with pytest.raises(ValueError, match='reuse is 0; '):
    pipe.sample_latents(story('a dog'), steps=2, reuse=0)
  with pytest.raises(ValueError, match='one block has no late blocks'):
    dit.LateBlocks(dataclasses.replace(pipe.config, num_layers=1))


def test_compiles_once_per_shape(pipe):
  pipe.sample_latents(story('one'), steps=2, seed=0)
  before = pipe._program.step._cache_size()
  pipe.sample_latents(story('two', negative='three'), steps=3, seed=1)
  pipe.sample_latents(story('two'), guidance_schedule='reference', steps=2)
  pipe.sample_latents(story('two'), scheduler='reference', steps=2)
  assert pipe._program.step._cache_size() == before
  pipe.sample_latents(story('now', 'three', 'segments'), steps=2)
  assert pipe._program.step._cache_size() == before + 1


def test_all_steps_are_one_program(pipe):
  # Parameters of a checkpoint are committed to a device, those at random are
  # not.
  before = pipe.params
  try:
    for params in (before, jax.device_put(before, jax.devices()[0])):
      pipe.params = params
      pipe._program.step.clear_cache()
      pipe.sample_latents(story('one'), steps=3)
      assert pipe._program.step._cache_size() == 1
  finally:
    pipe.params = before


def test_sampling_finds_the_programs_that_were_precompiled(pipe, tmp_path):
  programs = lambda: {
    file.name
    for name in ('_sampling_step', '_sampling_step_with_reuse', 'step')
    for file in tmp_path.glob(f'jit_*{name}-*-cache')
  }
  jax.clear_caches()
  with compiler.keep_programs(tmp_path):
    pipe.precompile('one', steps=3)
    pipe.precompile('one', steps=3, reuse=2)
    precompiled = programs()
    jax.clear_caches()
    pipe('two', steps=2)
    pipe('two', steps=3, reuse=3)
  assert any('_sampling_step' in name for name in precompiled)
  assert programs() == precompiled


def test_reports_every_step(pipe):
  steps = []
  pipe.sample_latents(story('one'), steps=3, on_step=steps.append)
  assert sorted(steps) == [1, 2, 3]


@pytest.mark.parametrize(
  'options,message',
  [
    (dict(steps=0), 'steps is 0; expected'),
    (dict(scheduler='euler'), "unknown scheduler 'euler'.*cogvideox_ddim"),
    (dict(guidance_schedule='ramp'), "'ramp'.*constant"),
    (dict(steps='5'), 'steps is "5"; expected'),
    (dict(steps=2.5), 'steps is 2.5; expected'),
    (dict(guidance='high'), 'guidance is "high"; expected'),
    (dict(seed=-1), 'seed is -1; expected'),
    (dict(reuse=0), 'reuse is 0; '),
  ],
)
def test_invalid_options(pipe, capsys, options, message):
  with pytest.raises(ValueError, match=message):
    pipe(story('one'), **options)
  assert capsys.readouterr().out == ''  # It did not begin.


def test_numbers_of_numpy_are_numbers(pipe):
  options = dict(steps=np.int64(1), guidance=np.float32(2), seed=np.uint8(1))
  np.testing.assert_array_equal(
    pipe('one', **options), pipe('one', steps=1, guidance=2.0, seed=1)
  )


def test_repr(pipe):
  text = repr(pipe)
  assert text.startswith('<VideoPipeline: ') and 'parameters' in text
  assert '16x16 pixels at 16 fps, 0.5 s per text' in text


def test_text_that_is_too_long_names_the_segment(pipe, capsys):
  with pytest.raises(ValueError, match='segment 2 .*5 .*4'):
    pipe(story('short', 'this one has five words'), steps=1)
  assert capsys.readouterr().out == ''
