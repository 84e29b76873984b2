"""Usage and flags of a command as Markdown, from its docstring and its code.

So the reference cannot differ from `--help`.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import pathlib
import re
from typing import Any

from absl import flags

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# absl adds it to the help of a flag that may be repeated.
_REPEAT = '; repeat this option to specify a list of values'


def commands() -> list[tuple[str, str]]:
  """Returns the name and the module of every command of `ttt-jax`."""
  # The module of the same name as the package is the command line.
  main = importlib.import_module('ttt_jax.__main__')
  return [(name, module) for name, (module, _) in main.commands().items()]


@functools.cache
def command(module: str) -> tuple[str, tuple[Any, ...]]:
  """Returns the docstring of a command and the flags that it defines.

  Args:
    module: Name as after `python -m`.
  """
  # Commands define flags of the same names, and one process has one registry:
  # each command finds it as it was.
  registry = flags.FLAGS
  if importlib.util.find_spec(module).submodule_search_locations:
    module += '.__main__'
  loaded = importlib.import_module(module)
  if hasattr(loaded, 'define_flags'):  # Called when the module is the command.
    loaded.define_flags()
  found = registry.get_flags_for_module(module)
  for flag in found:
    delattr(registry, flag.name)
  return inspect.getdoc(loaded) or '', tuple(found)


def kind(flag: Any) -> str:
  """Returns the kind of value of a flag, and its default."""
  if flag.boolean:
    return f'switch, default {"on" if flag.default else "off"}'
  if values := getattr(flag.parser, 'enum_values', None):
    words = 'one of ' + ', '.join(f'`{v}`' for v in values)
  elif isinstance(flag.default, float) or flag.flag_type() == 'float':
    words = 'number'
  elif isinstance(flag.default, int) or flag.flag_type() == 'int':
    words = 'whole number'
  else:
    words = 'text'
  if isinstance(flag, flags.MultiFlag):
    words += ', may be repeated'
  # absl's required flags have a validator and no other mark.
  if any('other than None' in v.message for v in flag.validators):
    words += ', required'
  elif flag.default not in (None, ''):
    # Of a file of this repository, not of this machine.
    default = str(flag.default).removeprefix(f'{_ROOT}{os.sep}')
    words += f', default `{default}`'
  return words


def markdown(module: str) -> list[str]:
  """Returns the page of a command, as lines of Markdown."""
  text, found = command(module)
  lines = [*_code_blocks(text).splitlines(), '']
  for flag in found:
    name = f'--[no]{flag.name}' if flag.boolean else f'--{flag.name}'
    # absl puts the values of an enumeration in front.
    help_text = re.sub(r'\A<.*?>: ', '', ' '.join(flag.help.split()))
    help_text = help_text.removesuffix(_REPEAT)
    lines += [f'`{name}`', f': {help_text} *({kind(flag)})*', '']
  return lines


def _code_blocks(text: str) -> str:
  """Returns a docstring whose indented blocks of commands are fenced.

  An indented block without a command is text; Markdown would show it as code.
  """

  def block(match: re.Match[str]) -> str:
    content = inspect.cleandoc('\n' + match[0]).strip('\n')
    if re.match(r'python|make|[A-Z]+/|\{|ttt-jax', content):
      return f'```text\n{content}\n```\n'
    return '\n'.join(f'> {line}' for line in content.split('\n')) + '\n'

  return re.sub(r'(?:^ {2,}.*\n?|^\n(?= {2,}))+', block, text, flags=re.M)
