"""launch/planner/sweep.py and launch/planner/advice.py: what is legal, and what to change."""

import copy

import pytest

from configs import ttt_video
from launch import topology
from launch.planner import advice
from launch.planner import sweep

# As the TPU compiler writes it, cut down.
_MESSAGE = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 25.51G of 15.75G hbm. Exceeded hbm capacity by 9.76G.

Total hbm usage >= 25.75G:
    reserved        258.00M
    program          25.51G

  Largest program allocations in hbm:

  1. Size: 4.00G
     Operator: op_name="jit(train_step)/transpose(jvp(DiffusionTransformer))/DiffusionTransformer._forward/while/body/closed_call/checkpoint/layers/mlp/up/dot_general"
     Shape: bf16[16,4544,12288]{2,1,0:T(8,128)(2,1)}
     Unpadded size: 4.00G
     XLA label: fusion.1 = fusion(p0, p1), kind=kOutput
     Allocation type: HLO temp
     ==========================

  2. Size: 4.00G
     Operator: op_name="jit(train_step)/transpose(jvp(DiffusionTransformer))/DiffusionTransformer._forward/while/body/closed_call/checkpoint/layers/mlp/up/dot_general"
     Shape: bf16[16,4544,12288]{2,1,0:T(8,128)(2,1)}
     Unpadded size: 4.00G
     ==========================

  3. Size: 1.50G
     Shape: f32[42,3072]{1,0}
     ==========================
"""


@pytest.fixture(autouse=True)
def _few_parameters(monkeypatch):
  # Counting them traces the whole network, which `test_plan` does.
  monkeypatch.setattr(
    sweep, '_count', lambda config: (7_230_178_848, 3_200_000_000)
  )


def _config(stage='63s'):
  return ttt_video.get_config(stage)


def test_what_the_compiler_says_of_memory():
  assert advice.summary(_MESSAGE) == 'the program takes 25.51G of 15.75G'
  assert advice.culprits(_MESSAGE) == [
    '4.00G x 2 bf16[16,4544,12288], backward layers/mlp/up/dot_general',
    '1.50G f32[42,3072], ',
  ]
  short = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required'
    ' for HLO temporaries (34.00G) exceeds available HBM (15.75G).'
  )
  assert advice.summary(short) == 'the program takes 34.00G of 15.75G'
  assert advice.culprits(short) == []
  assert advice.summary('RESOURCE_EXHAUSTED: other\nmore').endswith('other')


def test_legal_meshes():
  # 48 heads, 64 clips, all chips.
  meshes = advice.meshes(_config(), 'train', 256)
  assert [tuple(m.values()) for m in meshes] == [(64, 4), (32, 8), (16, 16)]
  # With guidance there are two clips.
  meshes = advice.meshes(_config(), 'sample', 32)
  assert [tuple(m.values()) for m in meshes] == [(2, 16)]
  assert advice.microbatches(_config(), dict(data=16, sp=16)) == [1, 2, 4]
  assert not advice.meshes(_config(), 'train', 7 * 256)


def test_remedies_are_legal_and_change_something():
  config = _config()
  config.mesh = dict(data=32, sp=8)
  rows = list(advice.remedies(config, 'train', topology.parse('v6e:16x16')))
  assert rows[0].startswith('--config.model.remat=offload')
  assert rows[1].startswith('--config.microbatches=2')
  assert rows[2].startswith('--mesh=data:16,sp:16')
  config.mesh = dict(data=16, sp=16)
  config.microbatches, config.model.remat = 4, 'offload'
  rows = list(advice.remedies(config, 'train', topology.parse('v5e:16x16')))
  assert len(rows) == 1 and 'more chips' in rows[0]


def test_the_formula_is_near_what_the_compiler_found():
  config = _config()
  # Of the 63 s stage, with what offload left on the chip, in GiB.
  count = 7_230_178_848, 3_200_000_000
  for mesh, parts, peak in (
    (dict(data=64, sp=4), 1, 23.0),
    (dict(data=32, sp=8), 2, 14.8),
    (dict(data=16, sp=16), 4, 14.2),
  ):
    memory = lambda remat: sweep.memory(
      config, 'train', mesh, parts, remat, count
    )
    assert memory('offload') / 2**30 == pytest.approx(peak, rel=0.25)
    assert memory('offload') < memory('layer')
  sampling = sweep.memory(
    config, 'sample', dict(data=2, sp=16), 1, 'none', count
  )
  assert sampling / 2**30 == pytest.approx(3.0, rel=0.25)


def _result(peak, step):
  return dict(
    memory=dict(peak=peak * 2**30, limit=32 * 2**30, margin=32 - peak),
    roofline=dict(step=step),
  )


def test_a_sweep(capsys, tmp_path):
  topology_ = topology.parse('v6e:16x16')
  tried = []

  def plan(config):
    one = (dict(config.mesh), config.microbatches, config.model.remat)
    tried.append(copy.deepcopy(one))
    return [_result(20, 9.0), None, _result(15, 7.0)][len(tried) - 1]

  path = tmp_path / 'sweep.json'
  status = sweep.run(_config(), 'train', topology_, 3, plan, str(path))
  out = capsys.readouterr().out
  assert status == 0 and len(tried) == 3 and path.exists()
  # Two clips a chip at once would be too much; data 64 x sp 4 as well.
  assert tried[0] == (dict(data=32, sp=8), 2, 'layer')
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
  assert status == 1 and 'nothing of it fits' in capsys.readouterr().out


def test_sweeps_that_cannot_be():
  with pytest.raises(ValueError, match='--limit is 0'):
    sweep.run(_config(), 'train', topology.parse('v5e:4x4'), 0, None)
  with pytest.raises(ValueError, match='no mesh of all 49 chips of v5e:7x7'):
    sweep.run(_config(), 'train', topology.parse('v5e:7x7'), 1, None)
