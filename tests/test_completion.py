"""`ttt-jax completion`: what TAB completes, in the shells themselves."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.helpers import commands
from tests.helpers import configs
from ttt_jax import __main__ as main
from ttt_jax import completion


@pytest.fixture(scope='module')
def bash_script():
  """The script, from a process that has imported nothing large."""
  code = (
    'import sys\nfrom ttt_jax import completion\n'
    'completion.main(["", "bash"])\n'
    'print({"jax", "numpy", "absl"} & set(sys.modules), file=sys.stderr)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stderr == 'set()\n'
  return done.stdout


def words_of_help(text):
  """The words of the flags that `--help` of a command shows."""
  yield '--help'
  for flag in text.partition('\nflags:\n')[2].split('\n  --')[1:]:
    name = flag.partition(':')[0]
    switch = name.removeprefix('[no]')
    yield f'--{switch}' if switch != name else f'--{name}='
    if switch != name and "(default: 'true')" in flag:
      yield f'--no{switch}'


@pytest.mark.parametrize(
  'name', sorted(main.commands().keys() - {'completion'})
)
def test_flags_are_those_of_the_parser(name):
  done = commands.run('ttt_jax', name, '--help')
  # The first flag follows its heading.
  text = done.stdout.replace('\nflags:\n', '\nflags:\n\n')
  assert sorted(completion.words()[name]) == sorted(words_of_help(text))


def test_stages_are_those_of_the_recipes():
  stages = {}
  for value in completion.recipes():
    name, _, stage = value.partition(':')
    stages.setdefault(name, []).append(stage)
    recipe = configs.load(name)
    if stage:
      assert recipe.get_config(stage).stage.endswith(stage)
  assert len(stages['ttt_video']) == 5
  for name, found in stages.items():
    assert found == list(getattr(configs.load(name), 'STAGES', ['']))


@pytest.mark.parametrize(
  'line, expected',
  [
    ('tr', 'train '),
    ('eval', 'evaluate |evaluate_edit '),
    ('train --pr', '--profile_steps=|--precompile '),
    ('edit --noi', '--noinversion '),
    ('train --dry_run', '--dry_run '),
    # Readline breaks words at = and at :, and keeps what is before.
    ('train --config=qu', 'quickstart:3s |quickstart:9s '),
    ('train --workdir=a --config=quickstart:9', '9s '),
    ('train --config quickstart:', '3s |9s '),
    ('plan --config=ttt_video:6', '63s '),
    # Files.
    ('train --config=mine', ''),
    ('train --config=tune_dit:', ''),
    ('sample --config=q', ''),
    ('sample --storyboard=st', ''),
    ('inspect fol', ''),
    ('completion ', 'bash |zsh |fish '),
  ],
)
def test_bash(bash_script, line, expected):
  # As readline calls the function.
  typed = f'ttt-jax {line}'
  program = f"""{bash_script}
    COMP_LINE='{typed}' COMP_POINT={len(typed)} COMP_WORDS=({typed} '')
    COMP_CWORD={typed.count(' ')}
    _ttt_jax
    IFS='|'; printf %s "${{COMPREPLY[*]}}"
  """
  done = subprocess.run(
    ['bash', '--norc', '-c', program], capture_output=True, text=True
  )
  assert (done.stdout, done.stderr) == (expected, '')


@pytest.mark.parametrize('shell', ['zsh', 'fish'])
def test_other_shells(shell, capsys):
  assert completion.main(['completion', shell]) == 0
  script = capsys.readouterr().out
  for word in ('train', 'storyboard', 'noinversion', 'quickstart:9s'):
    assert re.search(rf'\b{word}\b', script)
  if shutil.which(shell):
    subprocess.run([shell, '-n'], input=script, text=True, check=True)


def test_a_reader_that_leaves():
  done = subprocess.run(
    f'{sys.executable} -m ttt_jax completion bash | true',
    shell=True,
    capture_output=True,
    text=True,
    cwd=commands.ROOT,
  )
  assert done.stderr == ''


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['tcsh'], "for the shell 'tcsh'; expected one of bash, zsh, fish"),
    ([], 'a shell is missing; expected one of bash, zsh, fish'),
    (['bash', 'zsh'], "unexpected argument 'zsh' after bash; name one shell"),
  ],
)
def test_one_line(arguments, message):
  done = commands.run('ttt_jax', 'completion', *arguments)
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert message in line
