"""Lines and maps show the values that they are given."""

import json
import re

import numpy as np

from ttt_jax.pages import charts


def _values(figure):
  return json.loads(re.search(r'json">(.*?)</script>', figure)[1])


def _points(figure):
  """Returns the corners of the first line of a chart."""
  path = re.search(r'class="series" d="([^"]*)"', figure)[1]
  return np.array(re.findall(r'[ML](\S+) ([\d.]+)', path), float), path


def test_a_line_is_to_scale_and_gaps_stay_open():
  steps = np.arange(5.0)
  values = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
  series = charts.Series('x', np.stack([steps, values], axis=1))
  figure = charts.lines('t', [series, charts.Series('y', np.zeros((0, 2)))])
  points, path = _points(figure)
  assert path.count('M') == 2
  np.testing.assert_allclose(points[:, 0], [52, 137, 307, 392], atol=0.1)
  slope = np.diff(points[:, 1]) / np.diff([1, 2, 4, 5])
  np.testing.assert_allclose(slope, slope[0], atol=0.2)
  assert slope[0] < 0
  (found,) = _values(figure)['series']
  assert found == dict(name='x', x=[0, 1, 2, 3, 4], y=[1, 2, None, 4, 5])


def test_wide_ranges_are_logarithmic():
  line = lambda *y: charts.Series('x', np.array(list(enumerate(y)), float))
  points, _ = _points(charts.lines('t', [line(1, 10, 100)]))
  assert points[0, 1] - points[1, 1] == points[1, 1] - points[2, 1] > 50
  points, _ = _points(charts.lines('t', [line(0, 10, 100)]))
  assert points[0, 1] - points[1, 1] < 20


def test_a_logarithmic_horizontal_axis_and_marks():
  points = np.array([[0.1, 1.0], [1.0, 2.0], [10.0, 3.0]])
  figure = charts.lines(
    't', [charts.Series('x', points)], x_name='s', is_log_x=True, marks=[1.0]
  )
  found, _ = _points(figure)
  np.testing.assert_allclose(found[:, 0], [52, 222, 392], atol=0.1)
  assert re.search(r'class="mark" x1="222.0"', figure)
  values = _values(figure)
  assert (values['x_name'], values['is_log_x']) == ('s', True)
  assert values['series'][0]['x'] == [0.1, 1, 10]


def test_numbers_of_an_axis_differ():
  line = lambda *y: charts.Series('x', np.array(list(enumerate(y)), float))
  numbers = lambda *y: re.findall(
    r'text-anchor="end">([\d.]+k?)</text><', charts.lines('t', [line(*y)])
  )
  close = numbers(0.09961, 0.09964)
  assert len(close) >= 3 and len(set(close)) == len(close)
  assert '12k' in numbers(11_000, 13_000)
  assert '1200' in numbers(1100, 1300)


def test_one_point_no_points_and_many_points():
  one = charts.lines('t', [charts.Series('x', np.array([[3.0, 7.0]]))])
  assert 'h.01' in one
  assert 'no values yet' in charts.lines('t', [])
  assert 'no values yet' in charts.heat_map(
    't', [1], ['a'], np.array([[np.nan]])
  )
  many = np.stack([np.arange(10_000.0), np.ones(10_000)], axis=1)
  (found,) = _values(charts.lines('t', [charts.Series('x', many)]))['series']
  assert len(found['x']) == 300
  assert found['x'][0] < 20 and found['x'][-1] > 9980


def test_a_map_has_a_row_per_name():
  values = np.arange(6.0).reshape(2, 3)
  found = _values(charts.heat_map('t', [10, 20, 30], ['a', 'b'], values))
  assert found['map'] == dict(
    x=[10, 20, 30], rows=['a', 'b'], values=[[0, 1, 2], [3, 4, 5]]
  )


def test_smoothing_skips_what_is_not_finite():
  points = np.array([[0, 2.0], [1, np.nan], [2, 2.0]])
  np.testing.assert_allclose(charts.smooth(points)[:, 1], 2)
