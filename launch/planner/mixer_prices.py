"""Writes the cost of every mixer on pods to docs/mixers.md.

    python -m launch.planner.mixer_prices [--rows="63s train v5p"]

Plans the same stages on the same meshes with every mixer, like
`launch.planner.table`: one process after another, compiled programs are kept,
and rows outside of `--rows` stay as they are in docs/mixers.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

from absl import flags

from launch.planner import costs
from launch.planner import table
from ttt_jax.models.dit import mixers
from ttt_jax.runtime import cli
from ttt_jax.runtime import files

MARKS = (
  '<!-- prices: python -m launch.planner.mixer_prices -->',
  '<!-- end -->',
)
LOCAL = 'none'
STAGES = ('63s', '18s')
_GIB = 2**30
# One clip per device of `data`, and heads that four devices can share with
# every mixer. Sampling makes one video with guidance, a batch of two.
_SLICES = {
  'train': {'v5p:8x8x4': 'attention', 'v6e:16x16': 'offload_attention'},
  'sample': {'v5p:2x2x2': 'layer', 'v6e:2x4': 'layer'},
}
_MESHES = {'train': 'data:64,sp:4', 'sample': 'data:2,sp:4'}


def rows() -> list[table.Row]:
  """Returns the rows of all tables: stages, modes, slices, then mixers."""
  return [
    table.Row(stage, mode, slice_, _MESHES[mode], remat=remat, mixer=mixer)
    for stage in STAGES
    for mode, slices in _SLICES.items()
    for slice_, remat in slices.items()
    for mixer in sorted(mixers.MIXERS, key=lambda name: name != LOCAL)
  ]


def markdown(plans: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the tables: one for each stage and mode.

  Args:
    plans: Plans by the names of their rows; one that does not fit has the
      compiler's message as 'does_not_fit' and no 'roofline'.
  """
  lines = []
  for stage in STAGES:
    for mode, slices in _SLICES.items():
      lines += _table(stage, mode, list(slices), plans)
  return '\n'.join(lines).strip()


def _table(
  stage: str,
  mode: str,
  names: Sequence[str],
  plans: Mapping[str, Mapping[str, Any]],
) -> list[str]:
  """Returns the lines of one table; none if it has no plans."""
  found = {
    (row.mixer, row.topology): plans[row.name]
    for row in rows()
    if (row.stage, row.mode) == (stage, mode) and row.name in plans
  }
  names = [n for n in names if any(slice_ == n for _, slice_ in found)]
  if not names:
    return []
  steps = {
    key: plan['roofline']['step']
    for key, plan in found.items()
    if 'roofline' in plan
  }
  title = 'Training' if mode == 'train' else 'One step of sampling'
  lines = [
    f'{title}, {stage[:-1]} seconds:',
    '',
    '| mixer |'
    + ''.join(f' {n}: s | x local | share | peak GiB |' for n in names),
    '| --- |' + ' ---: |' * (4 * len(names)),
  ]
  for mixer in dict.fromkeys(mixer for mixer, _ in found):
    cells = []
    for name in names:
      plan = found.get((mixer, name))
      step, local = steps.get((mixer, name)), steps.get((LOCAL, name))
      if plan is None or step is None:
        cells += ['?' if plan is None else 'does not fit', '', '', '']
        continue
      cells += [
        f'{step:.2f}' if step < 10 else f'{step:.1f}',
        f'{step / local:.2f}' if local else '',
        f'{1 - local / step:.0%}' if local and mixer != LOCAL else '',
        f'{plan["memory"]["peak"] / _GIB:.1f}',
      ]
    lines.append(f'| `{mixer}` | {" | ".join(cells)} |')
  return [*lines, '']


def define_flags() -> None:
  """Defines the flags of this command."""
  flags.DEFINE_list('rows', [], 'Prefixes of the names of rows.')
  flags.DEFINE_string('cache', '.plan', 'Folder of compiled programs.')
  flags.DEFINE_string('page', 'docs/mixers.md', 'Page to update.')


def main(argv: Sequence[str]) -> None:
  """Compiles the rows of the flags, and writes the page."""
  del argv
  page = pathlib.Path(flags.FLAGS.page)
  data = page.with_suffix('.json')
  plans = json.loads(data.read_text()) if data.exists() else {}
  for row in rows():
    if flags.FLAGS.rows and not row.name.startswith(tuple(flags.FLAGS.rows)):
      continue
    try:
      found = table.plan(row, flags.FLAGS.cache)
      text = f'{found["roofline"]["step"]:.2f} s'
    except table.DoesNotFitError as e:
      text = str(e)
      found = dict(does_not_fit=text)
    keep = ('does_not_fit', 'roofline', 'memory', 'host', 'cycles')
    plans[row.name] = {k: found[k] for k in keep if k in found}
    print(f'{row.name}: {text}', flush=True)
    files.write_json(plans, data)
    page.write_text(costs.update_page(page.read_text(), markdown(plans), MARKS))


if __name__ == '__main__':
  define_flags()
  cli.run(main)
