"""What the stages cost, from the planner's table, for docs/pods.md.

    python -m launch.planner.costs

reads docs/plan.json, which `make plan-table` writes, and renews the part of
docs/pods.md between its two marks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

from absl import flags

from ttt_jax.runtime import cli

_BEGIN, _END = '<!-- costs: python -m launch.planner.costs -->', '<!-- end -->'


def table(plans: Mapping[str, Mapping[str, Any]]) -> str:
  """Markdown: the fastest plan of every stage, for each kind of slice.

  Args:
    plans: of docs/plan.json, by name.
  """
  best: dict[tuple[str, str], Mapping[str, Any]] = {}
  for plan in plans.values():
    key = plan['topology'], plan['config'].rpartition(' ')[2]
    others = [plan, best[key]] if key in best else [plan]
    if plan['mode'] == 'train':
      best[key] = min(others, key=lambda p: p['chip_hours'])
  lines = [
    '| stage | slice | mesh | s a step | steps | hours | chip-hours |',
    '| --- | --- | --- | ---: | ---: | ---: | ---: |',
  ]
  sums: dict[str, list[float]] = {}
  for (topology, stage), plan in best.items():
    mesh, hours = plan['mesh'], plan['steps'] * plan['roofline']['step'] / 3600
    sums.setdefault(topology, []).append(plan['chip_hours'])
    lines.append(
      f'| {stage} | {topology} | {mesh["data"]} x {mesh["sp"]} |'
      f' {plan["roofline"]["step"]:.1f} | {plan["steps"]:,} | {hours:.1f} |'
      f' {plan["chip_hours"]:,.0f} |'
    )
  for topology, parts in sums.items():
    if len(parts) > 1:
      lines.append(f'| all | {topology} | | | | | **{sum(parts):,.0f}** |')
  return '\n'.join(lines)


def renewed(page: str, text: str) -> str:
  """A page with `text` between its marks; raises ValueError without them."""
  before, begin, rest = page.partition(_BEGIN)
  _, end, after = rest.partition(_END)
  if not begin or not end:
    raise ValueError(f'the page has no marks {_BEGIN} and {_END}')
  return f'{before}{begin}\n\n{text}\n\n{end}{after}'


def define_flags() -> None:
  """The flags of this command."""
  flags.DEFINE_string('plan', 'docs/plan.json', 'Of `make plan-table`.')
  flags.DEFINE_string('page', 'docs/pods.md', 'To renew.')


def main(argv: Sequence[str]) -> None:
  """Entry point."""
  del argv
  plan, page = pathlib.Path(flags.FLAGS.plan), pathlib.Path(flags.FLAGS.page)
  if not plan.exists():
    raise FileNotFoundError(f'{plan} does not exist; make plan-table writes it')
  text = table(json.loads(plan.read_text()))
  page.write_text(renewed(page.read_text(), text))
  print(text)


if __name__ == '__main__':
  define_flags()
  cli.run(main)
