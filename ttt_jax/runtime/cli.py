"""Runs commands: flags, configs, and one-line errors instead of tracebacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import difflib
import io
import itertools
import logging as python_logging
import os
import re
import sys
import traceback
from typing import Any

from absl import app
from absl import flags
from absl import logging
import ml_collections

from ttt_jax.runtime import bucket
from ttt_jax.runtime import distributed
from ttt_jax.runtime import extras
from ttt_jax.runtime import files
from ttt_jax.runtime import schema
from ttt_jax.runtime import shipped

# Errors that a user can fix by other input, permissions or hardware. All others
# are defects of the program and keep their traceback.
USER_ERRORS = (ValueError, OSError, MemoryError)

# Message of the validator that is the only mark of absl's required flags.
REQUIRED = 'must have a value other than None'

flags.disclaim_key_flags()  # `define` defines those of its callers.


CONFIG_HELP = (
  'Path of a config file, or name of a recipe, with its argument if it has one:'
  ' quickstart:9s.'
)


def define(
  name: str, default: float | None, help_text: str, kind: Any
) -> flags.FlagHolder[Any]:
  """Defines a flag whose number has a kind of `runtime.schema`.

  Args:
    name: Name of the flag.
    default: Value without the flag.
    help_text: Help.
    kind: Kind of the number, for example `schema.PositiveInt`.
  """
  return flags.DEFINE(_KindParser(kind), name, default, help_text)


class _KindParser(flags.ArgumentParser):
  """Converts the text of a flag to a number of a kind."""

  def __init__(self, kind: Any):
    self._kind = kind

  def parse(self, argument: Any) -> Any:
    if not isinstance(argument, str):
      return argument  # The default.
    try:
      return schema.convert(argument, self._kind, '', strict=False)
    except ValueError as e:
      raise ValueError(str(e).partition('; ')[2]) from e


def run(
  main: Callable[[Sequence[str]], int | None], arguments: bool = False
) -> None:
  """Runs `main` with absl flags; user errors become `error: ...`, status 2.

  `TTT_JAX_TRACEBACK=1` keeps the traceback. If one of several processes fails,
  it exits without waiting for the others; if it lost another process or cannot
  reach a bucket, it exits with status 75, on which launchers restart all.

  Args:
    main: Function of the command; takes argv and returns the exit status.
    arguments: Whether arguments that are not flags are accepted.
  """

  def guarded(argv: Sequence[str]) -> int | None:
    if len(argv) > 1 and not arguments:
      return _fail(f'unexpected argument {argv[1]!r}; {_correct(argv[1])}')
    # At absl's default level jax and orbax log their internal steps.
    logging.set_verbosity(logging.WARNING)
    # The errors of gcsfs reach us as exceptions, too.
    python_logging.getLogger('gcsfs').setLevel(python_logging.CRITICAL)
    if isinstance(sys.stdout, io.TextIOWrapper):
      # File names that are not UTF-8 can be printed.
      sys.stdout.reconfigure(errors='backslashreplace')
    try:
      return main(argv)
    except KeyboardInterrupt:
      return distributed.hard_exit(_fail('interrupted', 130))
    except Exception as e:
      if not os.environ.get('TTT_JAX_TRACEBACK'):
        disconnect = distributed.describe_disconnect(
          e
        ) or bucket.describe_disconnect(e)
        if disconnect:
          return distributed.hard_exit(_fail(disconnect, distributed.TRY_AGAIN))
        if (reason := describe(e)) is not None:
          return distributed.hard_exit(_fail(reason))
      if distributed.is_multiprocess():
        traceback.print_exc()
        distributed.hard_exit(1)
      raise

  try:
    app.run(guarded, flags_parser=_parse)
  except BrokenPipeError:
    # The reader of the output, such as head, has closed it. Nothing more can be
    # written.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def describe(error: Exception) -> str | None:
  """Returns the text for a user; None for a defect of the program."""
  if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
    return (
      f'out of memory ({files.first_line(error)[:200]}); train with more'
      ' --config.microbatches, --config.model.remat=layer or a larger'
      ' --config.mesh.sp, sample with --mesh=sp:N, edit with --batch=1'
    )
  if isinstance(error, UnicodeEncodeError):
    character = error.object[error.start : error.start + 1]
    return (
      f'{error.object[:60]!r} contains {character!r}, which is not a character'
      f' of {error.encoding}; write the text or the file name again'
    )
  if isinstance(error, OSError) and error.strerror:
    return ': '.join(map(str, filter(None, (error.filename, error.strerror))))
  if isinstance(error, USER_ERRORS):
    return str(error)
  # JAX fails with one of them, depending on what is called first.
  if isinstance(error, AssertionError | RuntimeError):
    if (reason := extras.missing_backend()) is not None:
      return reason
  if 'Unable to initialize backend' in str(error):
    return (
      f'{files.first_line(error)[:200]}; set JAX_PLATFORMS=cpu, or unset it'
    )
  return None


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses the flags and the config file; exits with one line on an error."""
  # Arguments after -- are flags of another command.
  own = list(itertools.takewhile(lambda a: a != '--', argv[1:]))
  # Help works with and without a config.
  if any(re.fullmatch('--?h(elp)?', a) for a in own):
    print(_help())
    sys.exit(0)
  if any(re.fullmatch('--?help(full|short|xml)', a) for a in own):
    return app.parse_flags_with_usage(list(argv))
  argv, path = list(argv), None
  for i, argument in enumerate(own, 1):
    if not re.match(r'--?config(=|$)', argument):
      continue
    flag, equals, value = argument.partition('=')
    if not equals:
      value = argv[i + 1] if i < len(own) else ''
    try:
      value = shipped.resolve_config(value)
      shipped.check_program(value.partition(':')[0], _module())
    except ValueError as e:
      sys.exit(_fail(e))
    path = value.partition(':')[0]
    if equals:
      argv[i] = f'{flag}={value}'
    else:
      argv[i + 1] = value
  try:
    rest = flags.FLAGS(argv)
    if path is not None:
      _check_config(path, flags.FLAGS['config'].value)
    return rest
  except flags.UnrecognizedFlagError as e:
    hint = _suggest_flag(e.flagname, own)
    sys.exit(_fail(f'unknown flag --{e.flagname}; {hint}'))
  except flags.Error as e:
    if REQUIRED in str(e):
      sys.exit(_fail(_missing_flags()))
    # An error of a config file is part of absl's, with its traceback.
    error = trace = str(e)
  except Exception as e:
    error, trace = str(e.args[0] if e.args else e), traceback.format_exc()
    if path is None:
      raise
    error = f'{type(e).__name__}: {" ".join(error.split())}'
  last = [line.strip() for line in error.splitlines() if line.strip()][-1]
  kind, _, message = last.partition(': ')
  where = re.findall(rf'File "{re.escape(str(path))}", line (\d+)', trace)
  if "no attribute 'get_config'" in message:
    message = f'--config {path} defines no get_config()'
  elif kind == 'SyntaxError' and not where:
    message = f'--config {path} is not Python: {message}'
  elif found := re.search(r'field (\S+) is not supported for over', last):
    message = (
      f'--{found[1]} cannot be set by a flag; set it in a copy of {path}'
    )
  elif where and kind != 'ValueError':  # That is a message of a recipe.
    message = f'{path}, line {where[-1]}: {last}'
  elif error is not trace:
    message = _explain_override(message or last, own, path)
  elif kind != 'ValueError':
    message = last
  message = re.sub(
    'invalid literal for int.*', 'expected a whole number', message
  )
  message = re.sub('could not convert.* float.*', 'expected a number', message)
  message = re.sub(
    r"\('Non-boolean argument.*", 'expected true or false', message
  )
  message = re.sub(
    r'flag --([\w.]+)=(.*): value should be one of <(.*)>',
    lambda m: _expected_name(*m.groups()),
    message,
  )
  message = re.sub(
    r'flag --config\.([\w.]+)=(.*): Failed to parse .* as a ConfigDict:.*',
    lambda m: (
      f'--config.{m[1]}={m[2]}: config.{m[1]} is a group of fields;'
      f' {_fields(m[1], m[2])}'
    ),
    message,
  )
  sys.exit(_fail(message))


def _module() -> str:
  """Returns the name of the module that runs, as after `python -m`."""
  spec = getattr(sys.modules['__main__'], '__spec__', None)
  return spec.name.removesuffix('.__main__') if spec else ''


def _own_flags() -> list[flags.Flag[Any]]:
  """Returns the flags of the command itself."""
  return flags.FLAGS.get_key_flags_for_module(sys.argv[0])


def _correct(argument: str) -> str:
  """Returns a correction of an argument that is not a flag."""
  is_recipe = argument.partition(':')[0] in shipped.recipes()
  if is_recipe and 'config' in (f.name for f in _own_flags()):
    return f'did you mean --config={argument}?'
  return 'flags begin with --, see --help'


def _expected_name(flag: str, value: str, names: str) -> str:
  """Returns the text for a value that is none of the names `a|b`.

  Args:
    flag: Name of the flag.
    value: Its value.
    names: Names that the flag accepts.
  """
  known = names.split('|')
  near = difflib.get_close_matches(value, known, 1) or [
    name for name in known if difflib.get_close_matches(value, name.split('_'))
  ]
  hint = f'did you mean {near[0]}? ' if near else ''
  return f'flag --{flag}={value}: {hint}expected one of {", ".join(known)}'


def _fields(path: str, value: str) -> str:
  """Returns which flags set the fields of a group of a config.

  Args:
    path: Names of the group, with dots: 'mesh'.
    value: Text that was given for the group, such as 'data:2,sp:4'.
  """
  config: Any = flags.FLAGS['config'].value
  for name in path.split('.'):
    config = config[name]
  pairs = [
    re.split('[:=]', part.strip(), maxsplit=1) for part in value.split(',')
  ]
  if all(len(p) == 2 and p[0] in config for p in pairs):
    found = ' '.join(f'--config.{path}.{name}={text}' for name, text in pairs)
    return f'did you mean {found}?'
  names = [
    name
    for name, field in config.items()
    if isinstance(field, bool | int | float | str)
  ]
  if not names:
    return f'set config.{path} in a copy of the file'
  return (
    f'set a field of config.{path}, for example'
    f' --config.{path}.{names[0]}=VALUE'
  )


def _suggest_flag(name: str, argv: Sequence[str]) -> str:
  """Returns a correction of the name of an unknown flag.

  Args:
    name: Name of the flag.
    argv: Arguments, one of which is the flag.
  """
  own = [f.name for f in _own_flags()]
  config = flags.FLAGS['config'].value if 'config' in own else None
  if isinstance(config, ml_collections.ConfigDict) and name in config:
    if isinstance(config[name], ml_collections.ConfigDict):
      pattern = rf'--?{re.escape(name)}=(.*)'
      values = [m[1] for a in argv if (m := re.fullmatch(pattern, a))]
      return _fields(name, ''.join(values[:1]))
    return f'did you mean --config.{name}?'
  # Those of libraries, too.
  for known in (own, list(flags.FLAGS)):
    if near := difflib.get_close_matches(name, known, n=3):
      return f'did you mean --{" or --".join(near)}?'
  return 'see --help'


def _missing_flags() -> str:
  """Returns which required flags are missing, and an example."""
  missing = {}  # Its keys are ordered.
  for name in flags.FLAGS:
    for validator in flags.FLAGS[name].validators:
      if REQUIRED in validator.message:
        try:
          validator.verify(flags.FLAGS)
        except flags.ValidationError:
          text = validator.message.partition(f' {REQUIRED}')[0]
          missing[text.removeprefix('Flag ')] = True
  *first, last = missing
  text = f'{", ".join(first)} and {last} are' if first else f'{last} is'
  # The first indented line of the docstring, without the comment after it; a
  # backslash continues it.
  doc = sys.modules['__main__'].__doc__ or ''
  example = re.search(r'^    (\S(?:.*\\\n)*.*)', doc, re.MULTILINE)
  if not example:
    return f'{text} missing; see --help'
  command = re.sub(r'\s*\\\n\s*', ' ', example[1]).partition('  #')[0].strip()
  return f'{text} missing; for example {command}'


def _explain_override(
  message: str, argv: Sequence[str], path: str | None
) -> str:
  """Returns the text for a value that could not be set in the config.

  Args:
    message: Message of the configs' library, in one line.
    argv: Arguments, one of which sets the value.
    path: Path of the config file.
  """
  if found := re.search(r'Did you mean "(.*?)" instead of "(.*?)"', message):
    near, name = found.groups()
    hint = f'did you mean {near}?'
  elif found := re.fullmatch(r'"?\'(\w+)\'"?', message):
    name, hint = found[1], f'its fields are in {path}'
  else:
    return f'--config.NAME=VALUE does not fit the config: {message}'
  flag = next(
    (a for a in argv if name in a.partition('=')[0].split('.')[1:]),
    '--config.NAME=VALUE',
  )
  return f'{flag} does not fit the config: it has no {name!r}; {hint}'


def _help() -> str:
  """Returns the docstring of the command and its flags."""
  text = (sys.modules['__main__'].__doc__ or '').strip()
  # The first line is the path of the module.
  flag_help = flags.FLAGS.main_module_help().strip('\n').partition('\n')[2]
  # The defaults None and '' inform nobody, and the help of a flag that may be
  # repeated mentions it.
  flag_help = re.sub(r"\n +\(default: '(None)?'\)", '', flag_help)
  flag_help = re.sub(r';\n +repeat this option to .* values', '', flag_help)
  return f"""{text}

flags:
{flag_help}

"--helpfull" lists the flags of all libraries, too."""


def _check_config(path: str, config: Any) -> None:
  """Raises flags.Error unless a file returned a config."""
  if not isinstance(config, ml_collections.ConfigDict):
    error = getattr(config, '_error', None)  # Of absl's own kind of config.
    reason = f'get_config() returns {type(config).__name__}, not a ConfigDict'
    if isinstance(error, OSError):
      reason = describe(error)
    raise flags.Error(f'--config {path}: {reason}')


def _fail(message: object, status: int = 2) -> int:
  print(f'error: {message}', file=sys.stderr)
  return status
