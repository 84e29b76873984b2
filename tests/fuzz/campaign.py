"""Runs many inputs in processes of their own, which may die or hang."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import sys
import tempfile
from typing import Any

from tests.fuzz import guard
from tests.fuzz import target as target_lib

# Seconds by the clock after which a process that computes nothing hangs.
_WAIT = 90
# A process is replaced after so many inputs: compiled shapes stay in memory.
_INPUTS_PER_PROCESS = 1500


@dataclasses.dataclass(frozen=True)
class Input:
  """The name of an input, from which it is made again."""

  target: str
  seed: int
  index: int


def load_targets() -> dict[str, target_lib.Target]:
  """Returns all targets by name."""
  from tests.fuzz import command_targets
  from tests.fuzz import data_targets
  from tests.fuzz import evaluation_targets
  from tests.fuzz import model_targets

  del command_targets, data_targets, evaluation_targets, model_targets
  return target_lib.ALL


def inputs(
  targets: Sequence[target_lib.Target], seed: int, count: int
) -> list[Input]:
  """Returns `count` inputs, by the weights of their targets."""
  total = sum(t.weight for t in targets)
  found, end = [], 0.0
  for target in targets:
    begin, end = end, end + target.weight * count / total
    number = round(end) - round(begin)
    found += [Input(target.name, seed, i) for i in range(number)]
  return found


def run_here(
  found: Sequence[Input], root: pathlib.Path, **limits: float
) -> Iterator[tuple[Input, guard.Outcome]]:
  """Runs inputs in this process, each in `root` made anew."""
  targets = load_targets()
  unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None
  try:
    for item in found:
      shutil.rmtree(root, ignore_errors=True)
      target = targets[item.target]
      yield item, target_lib.run(target, item.seed, item.index, root, **limits)
  finally:
    sys.unraisablehook = unraisable


def _work(connection: Any, found: Sequence[Input]) -> None:
  """Runs inputs in a process of its own, and sends what they do."""
  import jax

  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_disable_most_optimizations', True)
  sys.dont_write_bytecode = True
  # Libraries write to it, too, and an abort leaves a page.
  os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
  with tempfile.TemporaryDirectory() as folder:
    tempfile.tempdir = folder
    try:
      for _, outcome in run_here(found, pathlib.Path(folder, 'input')):
        connection.send(dataclasses.astuple(outcome))
    except KeyboardInterrupt:
      pass
  used = resource.getrusage(resource.RUSAGE_SELF)
  connection.send(used.ru_utime + used.ru_stime)
  connection.close()


def run(
  found: Sequence[Input],
) -> Iterator[tuple[Input, guard.Outcome] | float]:
  """Yields the outcome of every input, and processor seconds at times."""
  context = multiprocessing.get_context('spawn')
  rest = list(found)
  while rest:
    ours, theirs = context.Pipe(duplex=False)
    part = rest[:_INPUTS_PER_PROCESS]
    process = context.Process(target=_work, args=(theirs, part))
    process.start()
    theirs.close()
    done = 0
    try:
      while True:
        if not ours.poll(_WAIT):
          process.kill()
          yield (
            part[done],
            guard.Outcome('hang', message=f'{_WAIT} s of nothing'),
          )
          done += 1
          break
        message = ours.recv()
        if isinstance(message, float):
          yield message
          break
        yield part[done], guard.Outcome(*message)
        done += 1
    except EOFError:
      process.join()
      if done < len(part):
        died = f'the process died with status {process.exitcode}'
        yield part[done], guard.Outcome('crash', message=died)
        done += 1
    finally:
      if process.is_alive() and done < len(part):
        process.kill()
      process.join()
    rest = rest[done:]


def save(
  folder: pathlib.Path, found: Input, outcome: guard.Outcome
) -> pathlib.Path:
  """Writes a finding to a file of its own; returns its path."""
  folder.mkdir(parents=True, exist_ok=True)
  name = f'{found.target}-{found.seed}-{found.index}.json'.replace(' ', '_')
  path = folder / name
  fields = dataclasses.asdict(found) | dataclasses.asdict(outcome)
  path.write_text(json.dumps(fields, indent=1) + '\n')
  return path
