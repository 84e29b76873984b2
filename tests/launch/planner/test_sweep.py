"""launch/planner/sweep.py and advice.py: valid candidates, suggestions."""

import copy
import pathlib

import pytest

from launch import topology
from launch.planner import advice
from launch.planner import sweep
from tests.helpers import configs

ttt_video = configs.load('ttt_video')

# As the TPU compiler writes it, shortened.
_MESSAGE = (
  pathlib.Path(__file__).parent / 'data/out_of_memory.txt'
).read_text()


@pytest.fixture(autouse=True)
def _few_parameters(monkeypatch):
  # Counting them traces the complete network, which `test_plan` does.
  monkeypatch.setattr(
    sweep, '_count_params', lambda config: (7_230_178_848, 3_200_000_000)
  )


def _config(stage='63s'):
  return ttt_video.get_config(stage)


def test_out_of_memory_messages():
  assert advice.summary(_MESSAGE) == 'the program takes 25.51G of 15.75G'
  assert advice.largest_buffers(_MESSAGE) == [
    '4.00G x 2 bf16[16,4544,12288], backward layers/mlp/up/dot_general',
    '1.50G f32[42,3072], ',
  ]
  short = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required'
    ' for HLO temporaries (34.00G) exceeds available HBM (15.75G).'
  )
  assert advice.summary(short) == 'the program takes 34.00G of 15.75G'
  assert advice.largest_buffers(short) == []
  assert advice.summary('RESOURCE_EXHAUSTED: other\nmore').endswith('other')


def test_valid_meshes():
  # 48 heads, 64 clips, all chips.
  meshes = advice.meshes(_config(), 'train', 256)
  assert [tuple(m.values()) for m in meshes] == [(64, 4), (32, 8), (16, 16)]
  # With guidance there are two clips.
  meshes = advice.meshes(_config(), 'sample', 32)
  assert [tuple(m.values()) for m in meshes] == [(2, 16)]
  assert advice.microbatches(_config(), dict(data=16, sp=16)) == [1, 2, 4]
  assert not advice.meshes(_config(), 'train', 7 * 256)


def test_suggestions_are_valid_and_change_something():
  config = _config()
  config.mesh = dict(data=32, sp=8)
  rows = list(advice.suggestions(config, 'train', topology.parse('v6e:16x16')))
  assert rows[0].startswith('--config.model.remat=offload')
  assert rows[1].startswith('--config.microbatches=2')
  assert rows[2].startswith('--mesh=data:16,sp:16')
  config.mesh = dict(data=16, sp=16)
  config.microbatches, config.model.remat = 4, 'offload'
  rows = list(advice.suggestions(config, 'train', topology.parse('v5e:16x16')))
  assert len(rows) == 1 and 'more chips' in rows[0]


def test_the_formula_is_near_what_the_compiler_found():
  config = _config()
  # Peaks of the 63 s stage with offload, in GiB.
  params = 7_230_178_848, 3_200_000_000
  v5p, v5e = topology.parse('v5p:8x8x4'), topology.parse('v5e:16x16')
  for mesh, parts, peak in (
    (dict(data=64, sp=4), 1, 23.0),
    (dict(data=32, sp=8), 2, 14.8),
    (dict(data=16, sp=16), 4, 14.2),
  ):
    offload, layer = (
      sweep.memory(config, 'train', mesh, parts, remat, params, v5p)
      for remat in ('offload', 'layer')
    )
    assert offload / 2**30 == pytest.approx(peak, rel=0.25)
    assert offload < layer
  attention = sweep.memory(
    config, 'train', dict(data=64, sp=4), 1, 'attention', params, v5p
  )
  assert attention / 2**30 == pytest.approx(65.1, rel=0.25)
  for chip, mesh, peak in (
    (v5p, dict(data=2, sp=16), 20.6),  # With a copy of all weights.
    (v5e, dict(data=2, sp=8), 4.8),
  ):
    sampling = sweep.memory(config, 'sample', mesh, 1, 'none', params, chip)
    assert sampling / 2**30 == pytest.approx(peak, rel=0.25)


def _result(peak, step):
  return dict(
    memory=dict(peak=peak * 2**30, limit=32 * 2**30, margin=32 - peak),
    roofline=dict(step=step),
  )


def test_a_sweep(capsys, tmp_path):
  topology_ = topology.parse('v6e:16x16')
  tried = []

  def plan(config):
    values = (dict(config.mesh), config.microbatches, config.model.remat)
    tried.append(copy.deepcopy(values))
    return [_result(20, 9.0), None, _result(15, 7.0)][len(tried) - 1]

  path = tmp_path / 'sweep.json'
  status = sweep.run(_config(), 'train', topology_, 3, plan, str(path))
  out = capsys.readouterr().out
  assert status == 0 and len(tried) == 3 and path.exists()
  # What attention computed fits with the smallest parts alone.
  assert tried[0] == (dict(data=16, sp=16), 4, 'attention')
  assert out.count('does not fit') == 1
  best = tried[2]
  assert (
    f'recommended: --mesh=data:{best[0]["data"]},sp:{best[0]["sp"]}'
    f' --config.microbatches={best[1]}'
  ) in out


def test_a_sweep_in_which_nothing_fits(capsys):
  status = sweep.run(
    _config(), 'train', topology.parse('v5e:16x16'), 1, lambda _: None
  )
  assert status == 1 and 'no candidate fits' in capsys.readouterr().out


def test_invalid_sweeps():
  with pytest.raises(ValueError, match='--limit is 0'):
    sweep.run(_config(), 'train', topology.parse('v5e:4x4'), 0, None)
  with pytest.raises(ValueError, match='no mesh of all 49 devices of v5e:7x7'):
    sweep.run(_config(), 'train', topology.parse('v5e:7x7'), 1, None)
