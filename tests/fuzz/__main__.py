"""Feeds every reader of users' files and flags with damaged input.

    python -m tests.fuzz                        # 5,000 inputs, all targets
    python -m tests.fuzz --inputs=500 captions  # those that contain a word
    python -m tests.fuzz --list
    python -m tests.fuzz --index=17 captions    # one input again, traceback

Each input works or ends in one line, as a command prints it. All else is a
finding: another exception, a hang, more than 2 GB, a process that dies, values
that mean nothing, files that are left behind by an error, and what is written,
read or started outside of what was named. A finding is written to --out with
its target, seed and index, which make the input again.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys
import tempfile
import time

from tests.fuzz import campaign


def main() -> int:
  parser = argparse.ArgumentParser(prog='python -m tests.fuzz')
  parser.add_argument('words', nargs='*', metavar='TARGET')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--inputs', type=int, default=5000)
  parser.add_argument('--index', type=int, help='only this input of a target')
  parser.add_argument('--list', action='store_true', help='list the targets')
  parser.add_argument('--out', default='fuzz_findings', type=pathlib.Path)
  options = parser.parse_args()
  targets = [
    target
    for name, target in campaign.load_targets().items()
    if not options.words or any(word in name for word in options.words)
  ]
  if options.list:
    for target in targets:
      print(f'{target.name:<40} {target.room}')
    return 0
  if not targets:
    parser.error(f'no target contains {options.words}; see --list')
  if options.index is not None:
    return again(targets[0].name, options.seed, options.index)
  found = campaign.inputs(targets, options.seed, options.inputs)
  start, processor = time.perf_counter(), 0.0
  counts: dict[str, collections.Counter[str]] = {}
  kinds: dict[tuple[str, str, str], list[str]] = {}
  for result in campaign.run(found):
    if isinstance(result, float):
      processor += result
      continue
    item, outcome = result
    kind = outcome.kind if not outcome.is_finding else 'finding'
    counts.setdefault(item.target, collections.Counter())[kind] += 1
    if outcome.is_finding:
      path = campaign.save(options.out, item, outcome)
      key = (item.target, outcome.kind, outcome.place)
      kinds.setdefault(key, []).append(f'{outcome.message[:160]!r} ({path})')
  print(f'{"target":<40} works  error  finding')
  for name, count in counts.items():
    print(
      f'{name:<40} {count["works"]:5} {count["error"]:6} {count["finding"]:8}'
    )
  for (name, kind, place), messages in sorted(kinds.items()):
    print(f'{name}: {kind} at {place}, {len(messages)} times: {messages[0]}')
  findings = sum(map(len, kinds.values()))
  print(
    f'{len(found)} inputs, {findings} findings of {len(kinds)} kinds,'
    f' {time.perf_counter() - start:.0f} s, {processor:.0f} s of processor'
  )
  return 1 if findings else 0


def again(name: str, seed: int, index: int) -> int:
  """Runs one input in this process; the traceback is printed."""
  item = campaign.Input(name, seed, index)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder, 'input')
    [(_, outcome)] = campaign.run_here([item], root)
    print(f'{outcome.trace}{outcome.kind} {outcome.place}: {outcome.message}')
  return int(outcome.is_finding)


if __name__ == '__main__':
  sys.exit(main())
