"""`ttt-jax` lists the commands and runs them; the same flags mean the same."""

import ast
import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.helpers import commands
from ttt_jax import __main__ as main
from ttt_jax import completion
from ttt_jax.runtime import shipped

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_lists_commands_and_recipes_without_jax():
  script = (
    'import sys\nfrom ttt_jax import __main__ as main\nmain.main([])\n'
    'print({"jax", "numpy", "absl"} & set(sys.modules))'
  )
  done = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True, check=True
  )
  assert done.stdout.splitlines()[-1] == 'set()'
  for line in (
    '  train          Trains one stage.',
    '  plan           Estimates whether a stage fits',
    '  quickstart    A complete system on a laptop',
    '  cartoon       A model of one-minute cartoons',
  ):
    assert line in done.stdout
  # Configs of other programs are not recipes of `train`.
  for name in ('quickstart_vae', 'shapes'):
    assert f'  {name} ' not in done.stdout


@pytest.mark.parametrize('name', main.commands())
def test_docstrings_have_a_summary_and_examples(name):
  _, path = main.commands()[name]
  doc = ast.get_docstring(ast.parse(path.read_text()))
  summary, _, rest = doc.partition('\n\n')
  assert summary.endswith('.') and len(summary) < 72
  # Lines of a terminal, continued by a backslash; not a grammar.
  lines = re.sub(r'\s*\\\n\s*', ' ', rest).splitlines()
  examples = [line[4:] for line in lines if line.startswith('    ttt-jax ')]
  assert rest.startswith('    ttt-jax ') and len(examples) > 1
  known = {flag.rstrip('=') for flag in completion.words()[name]}
  for example in examples:
    command, *words = shlex.split(example, comments=True)[1:]
    assert command == name
    assert not re.search(r'\[|\.\.\.|\w\|\w', example), example
    flags = {word.partition('=')[0] for word in words if word[:2] == '--'}
    assert {f for f in flags if not f.startswith('--config.')} <= known


@pytest.mark.parametrize(
  'arguments', [('train', '--help'), ('help', 'train'), ('--help', 'train')]
)
def test_runs_a_command(arguments):
  done = commands.run('ttt_jax', *arguments)
  assert done.returncode == 0
  assert 'ttt-jax train --config=quickstart:3s' in done.stdout
  assert '\n  --workdir: Folder of the training run' in done.stdout
  assert str(ROOT) not in done.stdout
  assert "(default: 'None')" not in done.stdout


def test_help_of_a_flag_that_may_be_repeated():
  text = commands.run('ttt_jax', 'edit', '--help').stdout
  assert '\n  --prompt: Text of an edit; may be given several times.\n' in text


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['trian'], "unknown command 'trian'; did you mean train?"),
    (['?'], "unknown command '?'; expected one of train, sample, "),
    (['--verison'], "unknown command '--verison'; did you mean --version?"),
    (['help', 'trian'], "unknown command 'trian'; did you mean train?"),
    (['sample', '--sed=3'], 'unknown flag --sed; did you mean --seed?'),
  ],
)
def test_one_line(arguments, message):
  done = commands.run('ttt_jax', *arguments)
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert message in line


@pytest.mark.parametrize(
  'arguments, status, message',
  [
    (['plan', '--config=ttt_video:63s'], 2, 'a clone of the repository'),
    (['plan', '--help'], 0, 'a clone of the repository'),
    (['help', 'plan'], 0, 'there call python -m launch.plan --help'),
    (['plna'], 2, "unknown command 'plna'; did you mean plan?"),
    ([], 0, 'what a step costs (in a clone).'),
  ],
)
def test_plan_without_a_clone(
  monkeypatch, tmp_path, capsys, arguments, status, message
):
  monkeypatch.setattr(main, '_PACKAGE', tmp_path / 'ttt_jax')
  assert main.main(arguments) == status
  out, err = capsys.readouterr()
  assert message in (err if status else out)
  if status:
    assert err.startswith('error: ') and len(err.splitlines()) == 1


def test_the_summary_of_plan_is_that_of_its_module():
  found = shipped.summary(ROOT / 'launch/plan.py')
  assert found == main._PLAN_SUMMARY


def test_main_names_are_imported_when_they_are_used():
  script = (
    'import sys, ttt_jax\n'
    'assert "VideoPipeline" in dir(ttt_jax)\n'
    'assert not {"jax", "numpy"} & set(sys.modules)\n'
    'from ttt_jax import EditPipeline, Storyboard, Video, VideoPipeline\n'
    'print(VideoPipeline.__module__)\n'
    'ttt_jax.Nothing'
  )
  done = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True
  )
  assert done.stdout == 'ttt_jax.pipeline.video\n'
  assert "'ttt_jax' has no attribute 'Nothing'" in done.stderr


def test_a_command_with_a_dash():
  done = commands.run('ttt_jax', 'evaluate-edit', '--help')
  assert done.returncode == 0
  assert done.stdout.startswith('Measures frame consistency')


# Flags whose help differs, and the reason.
DIFFERENT_HELP = {
  'action': 'the launchers have other actions',
  'config': 'launch.stages takes the config of the last stage',
  'out': 'every command writes another kind of file',
  'prompt': 'evaluate_edit takes one text per video',
  'seed': 'convert draws parameters, not noise',
  'storyboard': 'evaluate takes a file of several storyboards',
  'workdir': 'inspect reads the config of a run, sample also a CogVideoX',
}


@pytest.fixture(scope='module')
def flags_of_commands():
  """Flag -> command -> [type, help without the default], also of launchers."""
  code = """
import json, pathlib, re, sys
sys.path.insert(0, 'docs/extensions')
import command_flags
text = pathlib.Path('docs/reference/commands.md').read_text()
modules = [module for _, module in command_flags.commands()]
modules += re.findall('command-flags} (.*)', text)
found = {}
for module in modules:
  for flag in command_flags.command(module)[1]:
    kind = getattr(flag.parser, '_kind', flag.parser.flag_type())
    help = re.split('; default: ', ' '.join(flag.help.split()))[0].rstrip('.')
    kinds = found.setdefault(flag.name, {})
    kinds[module] = [f'{type(flag).__name__} {kind}', help]
print(json.dumps(found))
"""
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


def test_a_flag_has_one_type_and_one_help_in_all_commands(flags_of_commands):
  assert len(flags_of_commands['seed']) >= 3
  assert len(flags_of_commands['workdir']) >= 5
  types, helps = (
    {
      flag: values
      for flag, found in flags_of_commands.items()
      if len({*(values := {k: v[i] for k, v in found.items()}).values()}) > 1
    }
    for i in range(2)
  )
  assert not types, types
  wrong = {f: v for f, v in helps.items() if f not in DIFFERENT_HELP}
  assert not wrong, wrong
  assert helps.keys() >= DIFFERENT_HELP.keys(), 'remove what is equal by now'
