"""Writes the costs of the stages, from the planner's table, to docs/pods.md.

    python -m launch.planner.costs

reads docs/plan.json, which `make plan-table` writes, and replaces the text
between two marks of docs/pods.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
import re
from typing import Any

from absl import flags

from ttt_jax.runtime import cli

MARKS = '<!-- costs: python -m launch.planner.costs -->', '<!-- end -->'


def table(plans: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the fastest plan per stage and kind of slice as Markdown.

  Args:
    plans: plans of docs/plan.json by name.
  """
  best: dict[tuple[str, str], Mapping[str, Any]] = {}
  for plan in plans.values():
    if plan['mode'] == 'train':
      key = plan['topology'], plan['config'].rpartition(' ')[2]
      rivals = (plan, best.get(key, plan))
      best[key] = min(rivals, key=lambda p: p['chip_hours'])
  lines = [
    '| stage | slice | mesh | s per step | steps | hours | chip-hours |',
    '| --- | --- | --- | ---: | ---: | ---: | ---: |',
  ]
  chip_hours: dict[str, list[float]] = {}
  for (topology, stage), plan in best.items():
    mesh, step = plan['mesh'], plan['roofline']['step']
    chip_hours.setdefault(topology, []).append(plan['chip_hours'])
    lines.append(
      f'| {stage} | {topology} | {mesh["data"]} x {mesh["sp"]} |'
      f' {step:.1f} | {plan["steps"]:,} | {plan["steps"] * step / 3600:.1f} |'
      f' {plan["chip_hours"]:,.0f} |'
    )
  for topology, parts in chip_hours.items():
    if len(parts) > 1:
      lines.append(f'| all | {topology} | | | | | **{sum(parts):,.0f}** |')
  return '\n'.join(lines)


def update_page(page: str, text: str, marks: tuple[str, str] = MARKS) -> str:
  """Returns a page with `text` between its marks; ValueError without them."""
  begin, end = map(re.escape, marks)
  page, count = re.subn(
    f'(?s)({begin}).*?({end})', lambda m: f'{m[1]}\n\n{text}\n\n{m[2]}', page
  )
  if not count:
    raise ValueError(f'the page lacks the marks {" and ".join(marks)}')
  return page


def define_flags() -> None:
  """Defines the flags of this command."""
  flags.DEFINE_string('plan', 'docs/plan.json', 'JSON file of the plans.')
  flags.DEFINE_string('page', 'docs/pods.md', 'Page to update.')


def main(argv: Sequence[str]) -> None:
  """Writes the table of costs to the page, and prints it."""
  del argv
  plan, page = pathlib.Path(flags.FLAGS.plan), pathlib.Path(flags.FLAGS.page)
  if not plan.exists():
    raise FileNotFoundError(f'{plan} does not exist; make plan-table writes it')
  text = table(json.loads(plan.read_text()))
  page.write_text(update_page(page.read_text(), text))
  print(text)


if __name__ == '__main__':
  define_flags()
  cli.run(main)
