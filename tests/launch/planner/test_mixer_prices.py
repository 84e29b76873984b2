"""launch/planner/mixer_prices.py: rows and tables."""

from launch.planner import costs
from launch.planner import mixer_prices
from ttt_jax.models.dit import mixers

GIB = 2**30


def plan(step, peak):
  return dict(roofline=dict(step=step), memory=dict(peak=peak * GIB))


def test_rows_have_every_mixer_on_the_same_meshes():
  rows = mixer_prices.rows()
  assert len({row.name for row in rows}) == len(rows)
  places = {(r.stage, r.mode, r.topology, r.mesh, r.remat) for r in rows}
  assert len(rows) == len(places) * len(mixers.MIXERS)
  assert rows[0].mixer == mixer_prices.LOCAL
  command = rows[1].command('cache', 'out.json')
  assert any(a.endswith(f'ttt_video.py:63s,{rows[1].mixer}') for a in command)


def test_tables():
  name = '63s train v5p:8x8x4 attention'
  page = mixer_prices.markdown(
    {
      f'{name} none': plan(20.0, 50),
      f'{name} ttt_mlp': plan(30.0, 60),
      f'{name} full': dict(does_not_fit='the program takes 200G of 95G'),
    }
  )
  assert '| `none` | 20.0 | 1.00 |  | 50.0 |' in page
  assert '| `ttt_mlp` | 30.0 | 1.50 | 33% | 60.0 |' in page
  assert '| `full` | does not fit |' in page
  # What was not compiled has neither tables nor columns.
  assert 'sampling' not in page and 'v6e' not in page
  assert mixer_prices.markdown({}) == ''


def test_its_place_in_the_page(request):
  page = (request.config.rootpath / 'docs/mixers.md').read_text()
  new = costs.update_page(page, 'NEW', mixer_prices.MARKS)
  assert 'NEW' in new and '# The mixers' in new
