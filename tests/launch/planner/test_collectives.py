"""launch/planner/collectives.py and traffic.py on a program written by hand."""

import pathlib

from launch.planner import collectives
from launch.planner import hlo
from launch.planner import traffic

# As the TPU compiler writes a gather that overlaps with other work: its steps
# appear in every fusion that they are part of. An all-to-all starts before a
# fusion of 500 cycles, and a slice is sent to the host's memory. XLA peeled the
# first of three layers off the loop.
_TEXT = (pathlib.Path(__file__).parent / 'data/collectives.hlo').read_text()


def _find():
  return collectives.find_collectives(hlo.Program(_TEXT))


def test_a_gather_in_pieces_runs_once_per_layer_during_the_pieces():
  gathers = [c for c in _find() if c.kind == 'all-gather']
  assert [(c.times, c.devices, c.bytes) for c in gathers] == [(2, 8, 16384)]
  assert (gathers[0].start, gathers[0].end) == (0, 500)


def test_work_between_start_and_end_hides_a_collective():
  started, synchronous = [c for c in _find() if c.kind == 'all-to-all']
  assert (started.start, started.end) == (0, 500)
  assert synchronous.start == synchronous.end == 500
  assert started.times == synchronous.times == 2  # From 1 to 3.


def test_all_to_alls_of_the_forward_pass():
  assert collectives.count_forward_all_to_alls(_find()) == 2


def test_gathers_and_reductions_of_a_sequence():
  sized = collectives.sequence_sized
  assert len(sized(_find(), 1, [64])) == 2  # The gather, and f32[512,64].
  assert sized(_find(), 1, [97]) == []  # Another number of tokens.
  assert sized(_find(), 2**20, [64]) == []  # Too small for a sequence.
  [line] = sized(_find(), 100_000, [64])
  assert line == 'all-reduce of 4, f32[512,64], jit(f)/loss'
  # Exchanges between tokens and heads should occur.
  assert not any('all-to-all' in line for line in sized(_find(), 1, [1]))


def test_count_by_kind():
  rows = collectives.count_by_kind(_find())
  assert rows['all-to-all of 4'] == dict(count=4, bytes=4 * 64 * 16 * 2)


def test_traffic():
  found = traffic.hbm_traffic(hlo.Program(_TEXT))
  # The slice, not the array on the host that it is written to.
  assert found.host == 64 * 16 * 2
  # Three fusions and two exchanges in each iteration of the loop, and one
  # reduction. The last copy stays on the die.
  gathered, part = 512 * 16 * 2, 64 * 16 * 2
  assert found.written == (
    2 * (3 * gathered + 2 * part) + 512 * 64 * 4 + 96 * 4 + 4
  )
