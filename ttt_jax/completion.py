"""Prints a script for tab completion in bash, zsh or fish.

    ttt-jax completion bash                # prints the script
    eval "$(ttt-jax completion bash)"      # in ~/.bashrc; zsh alike
    ttt-jax completion fish | source       # in ~/.config/fish/config.fish

Completes commands, the flags of each command, recipes with their stages after
`--config=`, and files. The script contains all names, so that TAB starts no
process. It is printed in a tenth of a second, because flags and stages are read
from the source of commands and recipes, without importing them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
import functools
import os
import pathlib
import shlex
import string
import sys

from ttt_jax import __main__ as command_line
from ttt_jax.runtime import shipped

# Names of functions that define flags begin with one of them.
_DEFINES = ('flags.DEFINE', 'config_flags.DEFINE', 'cli.define')
_COMMON = 'common_flags'  # Module in which a function defines one flag.
_ITSELF = 'completion'


def flags(path: pathlib.Path) -> list[str]:
  """Returns the flags that a module defines, in the order of its source.

  Args:
    path: File of the module, which is not imported.

  Returns:
    '--name=' of flags with a value, '--name' of switches, and also '--noname'
    of switches that are on by default.
  """
  found = []
  for call in _definitions(ast.parse(path.read_text(encoding='utf-8'))):
    function = ast.unparse(call.func)
    name, *default = map(ast.unparse, call.args[:2])
    name = ast.literal_eval(name)
    if not function.endswith('_bool'):
      found.append(f'--{name}=')
      continue
    found.append(f'--{name}')
    if default == ['True']:
      found.append(f'--no{name}')
  return [*found, '--help']


def _definitions(tree: ast.AST) -> Iterator[ast.Call]:
  """Yields the calls that define a flag, also those of `common_flags`."""
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    function = ast.unparse(node.func)
    if function.startswith(_DEFINES):
      yield node
    elif function.startswith(f'{_COMMON}.'):
      yield from _definitions(_common()[function.partition('.')[2]])


@functools.cache
def _common() -> dict[str, ast.FunctionDef]:
  """Returns the functions of `common_flags` by their name."""
  text = pathlib.Path(__file__).with_name(f'{_COMMON}.py').read_text('utf-8')
  body = ast.parse(text).body
  return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def recipes() -> list[str]:
  """Returns the values of `--config` that name a recipe.

  Returns:
    'NAME:STAGE' for each stage, 'NAME:' for an argument of another kind, and
    'NAME' for a recipe without an argument.
  """
  found = []
  for name in shipped.recipes():
    text = (shipped.folder() / f'{name}.py').read_text(encoding='utf-8')
    body = ast.parse(text).body
    for stage in (stages := _stages(body)):
      found.append(f'{name}:{stage}')
    if not stages:
      takes = any(
        isinstance(node, ast.FunctionDef)
        and node.name == 'get_config'
        and node.args.args
        for node in body
      )
      found.append(f'{name}:' if takes else name)
  return found


def _stages(body: list[ast.stmt]) -> list[str]:
  """Returns the keys of the table STAGES of a recipe."""
  for node in body:
    if not isinstance(node, ast.Assign):
      continue
    if ast.unparse(node.targets[0]) != 'STAGES':
      continue
    if isinstance(node.value, ast.Dict):
      return [ast.literal_eval(key) for key in node.value.keys if key]
    # That of the library, `recipes.STAGES`.
    shared = pathlib.Path(__file__).with_name('recipes.py')
    return _stages(ast.parse(shared.read_text(encoding='utf-8')).body)
  return []


def words() -> dict[str, list[str]]:
  """Returns the words that may follow each command, besides files."""
  return {
    name: list(_SCRIPTS) if name == _ITSELF else flags(path)
    for name, (_, path) in command_line.commands().items()
  }


# Words that end in = or : go on; after all others comes a space.
_BASH = string.Template(r"""
_ttt_jax() {
  local IFS=$$' \t\n' words= recipes='$recipes'
  local line=$${COMP_LINE:0:COMP_POINT}
  local config='[[:space:]]--?config[=[:space:]]+([^[:space:]]*)$$'
  local typed=$${line##*[[:space:]]}
  local current=$$typed kept=$$typed word
  if ((COMP_CWORD == 1)); then
    words='$commands'
  else
    case $${COMP_WORDS[1]} in
$cases
    esac
  fi
  if [[ $$words == *--config=* && $$line =~ $$config ]]; then
    words=$$recipes current=$${BASH_REMATCH[1]}
  fi
  # Readline replaces what follows the last of its word breaks.
  if [[ $$COMP_WORDBREAKS == *=* ]]; then kept=$${kept##*=}; fi
  if [[ $$COMP_WORDBREAKS == *:* ]]; then kept=$${kept##*:}; fi
  kept=$${typed%"$$kept"}
  COMPREPLY=()
  for word in $$words; do
    if [[ $$word != *[=:] ]]; then word+=' '; fi
    if [[ $$word == "$$current"?* ]]; then
      word=$${typed%"$$current"}$$word
      COMPREPLY+=("$${word#"$$kept"}")
    fi
  done
}
# Without a match, readline completes files.
complete -o bashdefault -o default -o nospace -F _ttt_jax ttt-jax
""")

_ZSH = string.Template(r"""
_ttt_jax() {
  local -a found=()
  local word
  if ((CURRENT == 2)); then
    found=($commands)
  else
    case $${words[2]} in
$cases
    esac
  fi
  if [[ -n $${found[(r)--config=]} ]] &&
    [[ $$PREFIX == --config=* || $${words[CURRENT-1]} == --config ]]; then
    compset -P '--config='
    found=($recipes)
  fi
  for word in $$found; do
    if [[ $$word == *[=:] ]]; then
      compadd -S '' -- $$word
    else
      compadd -- $$word
    fi
  done
  if ((CURRENT > 2 && compstate[nmatches] == 0)); then
    compset -P '*[=:]'
    _files
  fi
}
(($$+functions[compdef])) || { autoload -Uz compinit && compinit; }
compdef _ttt_jax ttt-jax
""")


def _of_cases(template: string.Template, form: str) -> str:
  """Returns the script of a shell that has one case for each command."""
  table = words()
  cases = [
    f'      {name}) {form.format(" ".join(found))} ;;'
    for name, found in table.items()
  ]
  return template.substitute(
    commands=' '.join(table),
    recipes=' '.join(recipes()),
    cases='\n'.join(cases),
  ).strip()


def _bash() -> str:
  return _of_cases(_BASH, "words='{}'")


def _zsh() -> str:
  return _of_cases(_ZSH, 'found=({})')


def _fish() -> str:
  lines = []
  for name, found in words().items():
    _, path = command_line.commands()[name]
    lines.append(
      f'complete -c ttt-jax -n __fish_use_subcommand -f -a {name}'
      f' -d {shlex.quote(shipped.summary(path))}'
    )
    after = f"complete -c ttt-jax -n '__fish_seen_subcommand_from {name}'"
    for word in found:
      flag = word.strip('-=')
      if word == '--config=':
        lines.append(f"{after} -l {flag} -r -a '{' '.join(recipes())}'")
      elif word.endswith('='):
        lines.append(f'{after} -l {flag} -r')
      elif word.startswith('--'):
        lines.append(f'{after} -l {flag}')
      else:
        lines.append(f'{after} -f -a {word}')
  return '\n'.join(lines)


_SCRIPTS = {'bash': _bash, 'zsh': _zsh, 'fish': _fish}


def main(argv: list[str]) -> int:
  """Prints the script of the shell in `argv`; returns the exit status."""
  if any(a in ('-h', '--help', '-help', '--helpfull') for a in argv[1:]):
    print((__doc__ or '').strip())
    return 0
  shells = f'expected one of {", ".join(_SCRIPTS)}'
  if len(argv) < 2:
    error = f'the name of a shell is missing; {shells}'
  elif argv[1] not in _SCRIPTS:
    error = f'there is no completion for the shell {argv[1]!r}; {shells}'
  elif len(argv) > 2:
    error = f'unexpected argument {argv[2]!r} after {argv[1]}; name one shell'
  else:
    try:
      print(_SCRIPTS[argv[1]](), flush=True)
    except BrokenPipeError:  # Of `| head`. Python flushes again when it ends.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  print(f'error: {error}', file=sys.stderr)
  return 2


if __name__ == '__main__':
  sys.exit(main(sys.argv))
