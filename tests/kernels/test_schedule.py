"""Counting of cycles in a schedule, and comparison with a budget."""

import json

import pytest

from pallas_kernels.tools import compile_tpu
from pallas_kernels.tools import libtpu
from pallas_kernels.tools import schedule
from pallas_kernels.tools import tpu_calls

_EXIT = '%p{n} = scmp.ge.s32.totalorder %s{n}, {trips} /* loop exit test */'


def _schedule(loops, length):
  """Returns a schedule's text.

  Args:
    loops: (first bundle, bundle with the backward branch, trips) of each loop.
    length: total number of bundles.
  """
  texts = ['{ nop }'] * length
  for n, (first, branch, trips) in enumerate(loops):
    texts[first + 1] = '{ ' + _EXIT.format(n=n, trips=trips) + ' }'
    texts[branch] = f'{{ sbr.rel (!%p{n}) target bundleno = {first} ; }}'
  return '\n'.join(
    f'{number:#5x} LB: > {text}' if number else f'    0   : {text}'
    for number, text in enumerate(texts)
  )


@pytest.mark.parametrize(
  'loops, cycles',
  [
    ([], 100),
    # Bundles 10 to 20 and the 4 after the branch run 7 times.
    ([(10, 20, 7)], 85 + 15 * 7),
    ([(10, 20, 7), (40, 50, 3)], 70 + 15 * 7 + 15 * 3),
    # An inner loop of 10 bundles in an outer one of 60.
    ([(10, 65, 2), (30, 35, 5)], 40 + 50 * 2 + 10 * 2 * 5),
  ],
)
def test_loops_count_as_often_as_they_run(tmp_path, loops, cycles):
  name = '000012-ttt_mlp_forward.1-71-packed-bundles-post-ra.txt'
  (tmp_path / name).write_text(_schedule(loops, 100))
  (tmp_path / '000001-ttt_mlp_forward.1-02-original.txt').write_text(
    "#allocation0 [shape = 'u8[4096]{0}', space=vmem, size = 0x1000,"
    " scoped, tag = 'input window']\n"
    "#allocation1 [shape = 'u8[512]{0}', space=vmem, size = 0x200,"
    " scoped, tag = 'internal scratch']\n"
  )
  (tmp_path / '000013-fusion.2-71-packed-bundles-post-ra.txt').write_text('')
  (kernel,) = schedule.read_kernels(tmp_path, 'ttt_mlp')
  assert kernel == schedule.Kernel('ttt_mlp_forward.1', 100, cycles, 0x1000)


def test_loops_that_a_branch_skips_count_by_their_share():
  # A grid of 12 steps has a loop of 15 bundles and 6 trips, which the branch
  # at bundle 20 skips to bundle 60, and one that nothing skips.
  text = _schedule([(10, 90, 12), (30, 40, 6), (65, 70, 2)], 100)
  lines = text.split('\n')
  lines[20] = lines[20].replace('nop', 'sbr.rel (%p9) target bundleno = 60')
  bundles = schedule._bundles('\n'.join(lines))
  grid, part = 85, 60 - 25
  rest = 15 + (grid - part + 10) * 12
  inside = (part + 5 * 15) * 12
  assert schedule.count_cycles(bundles) == rest + inside
  assert schedule.count_cycles(bundles, [0.25]) == rest + inside / 4
  with pytest.raises(ValueError, match='1 loops .* shares for 2'):
    schedule.count_cycles(bundles, [0.25, 1.0])


def test_a_bundle_may_take_several_lines(tmp_path):
  name = '000012-ttt_mlp_forward.1-71-packed-bundles-post-ra.txt'
  text = '    0   : { first\n   second }\n  0x1   : { nop }\n'
  (tmp_path / name).write_text(text)
  (kernel,) = schedule.read_kernels(tmp_path, 'ttt_mlp')
  assert kernel.bundles == 2


@pytest.mark.parametrize(
  'change, regression',
  [
    ({'forward': 102.9}, None),
    ({'forward': 103.1}, 'v5e ttt_mlp one_chip: forward is 103.1'),
    ({'backward': 500.0}, 'backward is 500.0, the budget is 400.0'),
    ({'temporary': 2000}, 'temporary is 2000'),
    ({'chip': 'v9'}, 'v9 ttt_mlp one_chip: not in the budget'),
  ],
)
def test_growth_beyond_the_budget_is_named(
  tmp_path, monkeypatch, change, regression
):
  row = {
    'chip': 'v5e',
    'op': 'ttt_mlp',
    'call': 'one_chip',
    'forward': 100.0,
    'backward': 400.0,
    'whole_to_kernels': 1.02,
    'temporary': 1000,
  }
  monkeypatch.setattr(compile_tpu, 'BUDGET', tmp_path / 'budget.json')
  assert 'is missing' in compile_tpu.check([row])[0]
  compile_tpu.BUDGET.write_text(json.dumps([row]))
  regressions = compile_tpu.check([{**row, **change}])
  if regression is None:
    assert not regressions
  else:
    assert len(regressions) == 1 and regression in regressions[0]


def test_the_budget_covers_every_call_that_is_compiled():
  budget = json.loads(compile_tpu.BUDGET.read_text())
  assert {(r['chip'], r['op'], r['call']) for r in budget} == {
    (chip, op, call)
    for chip in libtpu.SMALLEST_SLICES
    for op, calls in tpu_calls.CALLS.items()
    for call in calls
  }
