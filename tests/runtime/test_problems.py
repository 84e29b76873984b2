"""Many problems are one line; other errors are none of them."""

import pytest

from ttt_jax.runtime import problems as problems_lib


def collect(count, error=ValueError):
  problems = problems_lib.Problems('are odd', FileNotFoundError)
  for i in range(count):
    with problems:
      raise error(f'p{i}')
  return problems


def test_all_problems_are_one_error():
  collect(0).check()
  with pytest.raises(FileNotFoundError, match='^p0$'):
    collect(1).check()
  with pytest.raises(FileNotFoundError) as e:
    collect(12).check('; end')
  assert str(e.value).startswith('12 are odd: p0; p1; ')
  assert str(e.value).endswith('; p9; and 2 more; end')


@pytest.mark.parametrize('error', [KeyError, KeyboardInterrupt, OSError])
def test_other_errors_are_raised(error):
  with pytest.raises(error):
    collect(1, error)


def test_an_advice_that_all_share_occurs_once():
  problems = problems_lib.Problems('videos cannot be used', FileNotFoundError)
  for name in ('a.mp4', 'b.mp4'):
    with problems:
      raise ValueError(f'{name} is a pointer; it is small; run git lfs pull')
  with pytest.raises(FileNotFoundError) as caught:
    problems.check(' (in x.json)')
  assert str(caught.value) == (
    '2 videos cannot be used: a.mp4 is a pointer; it is small; b.mp4 is a'
    ' pointer; it is small; run git lfs pull (in x.json)'
  )
