"""launch/planner/table.py: rows, the budget, and the page."""

import json

import pytest

from launch import topology
from launch.planner import advice
from launch.planner import table
from tests.helpers import configs
from ttt_jax import recipes
from ttt_jax import sharding

ttt_video = configs.load('ttt_video')


def _plan(peak=20.0, step=50.0, stage='63s'):
  gib = 2**30
  return dict(
    config=f'ttt_mlp_5b, stage {stage}',
    mode='train',
    topology='v5p:8x8x4',
    mesh=dict(data=64, sp=4),
    microbatches=1,
    remat='offload',
    memory=dict(peak=peak * gib, limit=95 * gib),
    host=dict(kept=21 * gib, moved=45 * gib),
    all_to_alls_per_layer=6.0,
    sequence_sized=[],
    flops=dict(model=dict(mlp=4e15, attention=1e15)),
    roofline=dict(
      step=step,
      mfu=0.25,
      products=1,
      memory=2,
      work=45,
      exposed=5,
      hidden=0,
      host=2,
    ),
    assumptions=['459 TFLOP/s'],
    steps=250,
    chip_hours=900.0,
    compile_seconds=200.0,
    at_the_peak=['0.5 GiB: bf16[1,4], mlp/up'],
  )


@pytest.mark.parametrize('row', table.ROWS, ids=lambda row: row.name)
def test_rows_are_valid(row):
  config = ttt_video.get_config(row.stage)
  config.microbatches = row.microbatches
  devices = topology.parse(row.topology).num_devices
  mesh = sharding.parse_mesh(row.mesh)
  assert mesh in advice.meshes(config, row.mode, devices)
  if row.mode == 'train':
    assert row.microbatches in advice.microbatches(config, mesh)


def test_names_of_rows_are_unique():
  assert len({row.name for row in table.ROWS}) == len(table.ROWS)
  assert {row.stage for row in table.ROWS} == set(recipes.STAGES)


def test_checked_rows_are_in_the_budget():
  budget = json.loads(table.BUDGET.read_text())
  checked = {row.name for row in table.ROWS if row.checked}
  assert checked == set(budget)
  # Limits for 256 chips, or 32 for sampling.
  for name, limit in (
    ('v5p:8x8x4 offload', 30),
    ('v5p:8x8x4 attention', 70),
    ('v5e:16x16', 14.4),
    ('v5p:4x4x2', 24),
  ):
    [row] = [v for k, v in budget.items() if name in k]
    assert row['peak_gib'] <= limit
    assert row['all_to_alls_per_layer'] <= 6 and row['sequence_sized'] == 0


def test_regressions():
  budget = dict(row=table.entry(_plan()))
  assert table.regressions('row', _plan(20.3), budget) == []
  assert table.regressions('row', _plan(20.5), budget) == [
    'row: peak_gib is 20.5, the budget is 20.0'
  ]
  worse = _plan() | dict(all_to_alls_per_layer=6.1, sequence_sized=['a'])
  assert len(table.regressions('row', worse, budget)) == 2
  assert 'not in the budget' in table.regressions('other', _plan(), budget)[0]


def test_the_page():
  page = table.markdown({'a': _plan(), 'b': _plan(stage='3s')})
  assert (
    '| 63s train | v5p:8x8x4 | 64 x 4 | 1 | offload | 20.0 | 95 | 21.0 | 6 |'
    ' 0 | 5 | 50.0 | 0 | 25% | 250 | 900.0 |'
  ) in page
  assert page.count('459 TFLOP/s') == 1
  assert f'Not compiled yet: {table.ROWS[0].name}, ' in page
  rows = [line for line in page.splitlines() if line.startswith('|')]
  assert len({row.count('|') for row in rows[:4]}) == 1
  assert len({row.count('|') for row in rows[4:]}) == 1


def test_rows_that_did_not_run_stay(tmp_path):
  first, second = (row.name for row in table.ROWS[:2])
  path = tmp_path / 'plan.md'
  table._write(path, {second: _plan(step=7)})
  table._write(path, {first: _plan(step=8)})
  table._write(path, {second: _plan(step=9)})
  found = json.loads((tmp_path / 'plan.json').read_text())
  assert list(found) == [first, second]
  assert [one['roofline']['step'] for one in found.values()] == [8, 9]
  assert path.read_text() == table.markdown(found)


def test_the_error_of_a_plan_that_fails(monkeypatch, tmp_path):
  row = table.Row('3s', 'train', 'v9:1x1', 'data:1,sp:1')
  script = 'echo noise >&2; echo "error: no v9" >&2; exit 2'
  monkeypatch.setattr(table.Row, 'command', lambda *_: ['sh', '-c', script])
  with pytest.raises(ValueError, match='3s train v9:1x1: error: no v9') as e:
    table.plan(row, str(tmp_path))
  assert not isinstance(e.value, table.DoesNotFitError)


def test_a_plan_that_does_not_fit(monkeypatch, tmp_path):
  row = table.Row('3s', 'train', 'v9:1x1', 'data:1,sp:1')
  text = json.dumps(dict(does_not_fit=dict(reason='it takes 9G of 8G')))

  def command(self, cache, path):
    return ['sh', '-c', f"echo '{text}' > '{path}'; exit 1"]

  monkeypatch.setattr(table.Row, 'command', command)
  with pytest.raises(table.DoesNotFitError, match='v9:1x1: it takes 9G of 8G'):
    table.plan(row, str(tmp_path))
  # What an earlier run wrote is not taken for this one's.
  monkeypatch.setattr(table.Row, 'command', lambda *_: ['sh', '-c', 'exit 2'])
  with pytest.raises(ValueError, match='exit status 2') as e:
    table.plan(row, str(tmp_path))
  assert not isinstance(e.value, table.DoesNotFitError)
