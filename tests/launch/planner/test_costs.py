"""launch/planner/costs.py: the table of costs, and its place in the page."""

import pathlib

import pytest

from launch.planner import costs

ROOT = pathlib.Path(__file__).parents[3]


def plan(stage, step, mode='train', topology='v5p:8x8x4'):
  hours = 250 * step * 256 / 3600
  return dict(
    config=f'ttt_mlp_5b, stage {stage}',
    mode=mode,
    topology=topology,
    mesh=dict(data=64, sp=4),
    steps=250,
    roofline=dict(step=step),
    chip_hours=hours,
  )


def test_costs_of_the_fastest_plans():
  plans = dict(
    a=plan('3s', 7.2),
    b=plan('63s', 72.0),
    c=plan('63s', 36.0),
    d=plan('63s', 1.0, 'sample'),
    e=plan('63s', 144.0, topology='v5e:16x16'),
  )
  assert costs.table(plans).splitlines()[2:] == [
    '| 3s | v5p:8x8x4 | 64 x 4 | 7.2 | 250 | 0.5 | 128 |',
    '| 63s | v5p:8x8x4 | 64 x 4 | 36.0 | 250 | 2.5 | 640 |',
    '| 63s | v5e:16x16 | 64 x 4 | 144.0 | 250 | 10.0 | 2,560 |',
    '| all | v5p:8x8x4 | | | | | **768** |',
  ]


def test_costs_are_written_into_the_page():
  page = (ROOT / 'docs' / 'pods.md').read_text()
  new = costs.update_page(page, 'TABLE')
  assert costs.update_page(new, 'TABLE') == new
  assert '-->\n\nTABLE\n\n<!--' in new
  with pytest.raises(ValueError, match='lacks the marks'):
    costs.update_page('', 'TABLE')
