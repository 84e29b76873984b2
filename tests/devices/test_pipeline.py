"""The video pipeline on meshes: the same video, and one program per shape."""

import numpy as np
import pytest

from tests.helpers import tiny_pipeline
from ttt_jax import sharding

STORY = tiny_pipeline.story('a dog', 'it runs')


@pytest.fixture(scope='module')
def expected():
  return np.asarray(tiny_pipeline.make().sample_latents(STORY, steps=3))


@pytest.fixture(scope='module')
def expected_with_reuse():
  pipe = tiny_pipeline.make()
  return np.asarray(pipe.sample_latents(STORY, steps=3, reuse=2))


@pytest.mark.parametrize('mesh', ['data:1,sp:2', 'data:2,sp:4'])
def test_a_mesh_samples_the_same_latents(mesh, expected, expected_with_reuse):
  pipe = tiny_pipeline.make(sharding.make_mesh(sharding.parse_mesh(mesh)))
  found = pipe.sample_latents(STORY, steps=3)
  np.testing.assert_allclose(found, expected, atol=2e-4)
  assert pipe._program.step._cache_size() == 1
  found = pipe.sample_latents(STORY, steps=3, reuse=2)
  np.testing.assert_allclose(found, expected_with_reuse, atol=2e-4)
