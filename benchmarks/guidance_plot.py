"""Plots the named guidance schedules.

python -m benchmarks.guidance_plot docs/guidance.png
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import app
import matplotlib

from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import sampling_schedule
from ttt_jax.runtime import cli

matplotlib.use('Agg')
from matplotlib import pyplot

_SCALE = 6.0
_STEPS = 50


def main(argv: Sequence[str]) -> None:
  if len(argv) != 2:
    raise app.UsageError('expected one argument: the PNG file to write')
  timesteps = sampling_schedule.from_name(steps=_STEPS).timesteps
  figure, axes = pyplot.subplots(figsize=(7, 3), layout='constrained')
  for name, style in (
    ('reference', {'linewidth': 0.8, 'marker': '.', 'color': '0.6'}),
    ('constant', {'linestyle': '--'}),
    ('cosine', {'linewidth': 2}),
  ):
    scales = guidance.schedule(name)(_SCALE, _STEPS, timesteps)
    axes.plot(scales, label=name, **style)
  axes.set_xlabel(f'sampling step (of {_STEPS}; 0 is pure noise)')
  axes.set_ylabel('guidance strength')
  axes.set_title(f'guidance schedules at scale {_SCALE:g}', fontsize=10)
  figure.legend(loc='outside right center', fontsize=8)
  figure.savefig(argv[1], dpi=110)


if __name__ == '__main__':
  cli.run(main, arguments=True)
