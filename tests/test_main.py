"""`ttt-jax` lists the commands and runs them; the same flags mean the same."""

import ast
import collections
import pathlib
import subprocess
import sys

import pytest

from tests.helpers import commands
from ttt_jax import __main__ as main

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
  module, path = main.commands()[name]
  doc = ast.get_docstring(ast.parse(path.read_text()))
  summary, _, rest = doc.partition('\n\n')
  assert summary.endswith('.') and len(summary) < 72
  example = rest.splitlines()[0].strip()
  assert example.startswith((f'ttt-jax {name} ', f'python -m {module} '))


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


def test_plan_without_a_clone(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(main, '_PACKAGE', tmp_path / 'ttt_jax')
  assert main.main(['plan', '--config=ttt_video:63s']) == 2
  assert 'a clone of the repository' in capsys.readouterr().err


def test_a_flag_has_one_type_in_all_commands():
  kinds = collections.defaultdict(dict)
  for name, (_, path) in main.commands().items():
    for node in ast.walk(ast.parse(path.read_text())):
      if not isinstance(node, ast.Call):
        continue
      function = ast.unparse(node.func)
      if function.startswith(('flags.DEFINE', 'cli.define')):
        flag, *_ = (ast.literal_eval(a) for a in node.args[:1])
        kind = [ast.unparse(a) for a in node.args[3:]]
        kinds[flag][name] = (function, *kind)
  assert len(kinds['seed']) >= 3 and len(kinds['workdir']) >= 5
  mixed = {f: k for f, k in kinds.items() if len(set(k.values())) > 1}
  assert not mixed, mixed
