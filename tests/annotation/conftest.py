"""A project whose cuts are known, so that nothing has to be found."""

import pytest

from tests.helpers import videos
from ttt_jax.annotation import project as project_lib
from ttt_jax.annotation import scenes
from ttt_jax.annotation import work

# Of 12 s at 16 frames per second. The first scene has two segments and half a
# second more, the second none, the third one that is a bit short.
CUTS = (6.5, 8.25, 10.75)


@pytest.fixture(name='episodes')
def _episodes(tmp_path):
  """Makes a folder with an episode of numbered frames."""
  folder = tmp_path / 'raw # 1'
  folder.mkdir()
  videos.write(folder / 'ep 01.mp4', 192)
  return folder


@pytest.fixture(name='project')
def _project(tmp_path, episodes):
  """Returns a project with known cuts in a new folder."""
  project = project_lib.Project(tmp_path / 'out', work.geometry(None), episodes)
  cuts = scenes.Cuts(12.0, CUTS)
  threshold, shortest = scenes.DEFAULT_THRESHOLD, scenes.DEFAULT_SHORTEST
  project.set_cuts('ep 01.mp4', cuts, threshold, shortest)
  return project
