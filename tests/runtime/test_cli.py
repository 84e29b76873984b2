"""Invalid input to a command is reported in one line, with status 2."""

import errno
import os
import subprocess
import sys
from unittest import mock

from absl import app
import jax
import pytest

from tests.helpers import commands
from ttt_jax.runtime import cli
from ttt_jax.runtime import shipped

_NOPE = (
  'error: --config nope.py is neither a file nor a recipe; expected one of'
  f' {", ".join(shipped.recipes())}'
)


@pytest.mark.parametrize(
  'command,message',
  [
    (
      ['train', '--config=nope.py', '--workdir=x'],
      _NOPE,
    ),
    (
      ['train', '--config=configs/quickstart.py:4s', '--workdir=x'],
      "error: stage '4s'; expected one of 3s, 9s",
    ),
    (
      [
        'precompute',
        '--config=configs/quickstart.py',
        '--workdir=x',
        '--config.modle.x=3',
      ],
      "error: --config.modle.x=3 does not fit the config: it has no 'modle';"
      ' did you mean model?',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--config.data.nope=3'],
      'error: --config.data.nope=3 does not fit the config: it has no'
      " 'nope'; its fields are in configs/quickstart.py",
    ),
    (
      [
        'train',
        '--config=configs/quickstart.py',
        '--config.optimizer.groups=3',
      ],
      'error: --config.optimizer.groups cannot be set by a flag; set it in a'
      ' copy of configs/quickstart.py',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--steps=3'],
      'error: unknown flag --steps; did you mean --config.steps?',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--mesh=data:2,sp:4'],
      'error: unknown flag --mesh; did you mean --config.mesh.data=2'
      ' --config.mesh.sp=4?',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--mesh'],
      'error: unknown flag --mesh; set a field of config.mesh, for example'
      ' --config.mesh.data=VALUE',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--config.mesh=data:2'],
      'error: --config.mesh=data:2: config.mesh is a group of fields; did you'
      ' mean --config.mesh.data=2?',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--config.mesh=2'],
      'error: --config.mesh=2: config.mesh is a group of fields; set a field of'
      ' config.mesh, for example --config.mesh.data=VALUE',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--dry_run=foo'],
      'error: flag --dry_run=foo: expected true or false',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--config.data.soften=foo'],
      'error: flag --config.data.soften=foo: expected true or false',
    ),
    (
      ['sample', '--workdir=x', '--scheduler=ddmi'],
      'error: flag --scheduler=ddmi: did you mean cogvideox_ddim? expected one'
      ' of cogvideox_dpm, cogvideox_ddim, reference',
    ),
    (
      ['sample', '--workdir=x', '--guidance_schedule=zzz'],
      'error: flag --guidance_schedule=zzz: expected one of constant, cosine,'
      ' reference',
    ),
    (
      ['sample', '--workdir=x', '--storyboard=one_minut', '--out=o.mp4'],
      'error: one_minut does not exist; did you mean one_minute?',
    ),
    (
      ['sample', '--workdir=x', '--storyboard=s.json', '--out=o.mp4/'],
      'error: --out is o.mp4/; it must end in .mp4',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--zzz=3'],
      'error: unknown flag --zzz; see --help',
    ),
    (
      ['train', '--config=quickstart', '--helpp'],
      'error: unknown flag --helpp; did you mean --help or --helpxml or'
      ' --helpfull?',
    ),
    (
      ['train', '--config=quickstart_vae', '--workdir=x'],
      'error: --config quickstart_vae is a recipe of another program; in a'
      ' clone of the repository, call python -m examples.vae.train'
      ' --config=configs/quickstart_vae.py --workdir=DIR',
    ),
    (
      ['train', '--config=configs/quickstart_vae.py:x', '--workdir=x'],
      'error: --config quickstart_vae is a recipe of another program; in a'
      ' clone of the repository, call python -m examples.vae.train'
      ' --config=configs/quickstart_vae.py --workdir=DIR',
    ),
    (
      ['precompute', '--config=cartoon:9s', '--workdir=x'],
      'error: x/stories/9s/storyboards.json does not exist; name a file of'
      ' captions with --config.data.storyboards=FILE; the data of this recipe'
      ' are made in a clone of the repository, by'
      ' python -m examples.cartoon.train --workdir=cartoon',
    ),
    (
      ['train', 'quickstart:9s'],
      "error: unexpected argument 'quickstart:9s'; did you mean"
      ' --config=quickstart:9s?',
    ),
    (
      ['sample', 'quickstart'],
      'error: --workdir, --storyboard or --prompt and --out are missing; for'
      ' example ttt-jax sample --workdir=DIR --storyboard=story.json'
      ' --out=story.mp4',
    ),
    (
      ['edit', '--workdir=x'],
      'error: --prompt is missing; for example ttt-jax edit --workdir=DIR'
      ' --prompt="Spider Man is skiing"'
      ' --prompt="a man is skiing, comic style"',
    ),
    (
      [
        'sample',
        '--workdir=x',
        '--storyboard=s.json',
        '--out=o.mp4',
        '--steps=a',
      ],
      'error: flag --steps=a: expected a whole number',
    ),
    (
      ['sample', '--workdir=x', '--storyboard=s.json', '--out=o.avi'],
      'error: --out is o.avi; it must end in .mp4',
    ),
    (
      ['sample', '--workdir=x', '--storyboard=s.json', '--out=o.mp4'],
      'error: s.json does not exist; name a storyboard, for example'
      ' configs/storyboards/one_minute.json',
    ),
    (
      ['sample', '--workdir=x', '--storyboard=s.json', '--out=no/o.mp4'],
      'error: no/o.mp4 cannot be written: there is no folder {cwd}/no; choose'
      ' another path',
    ),
    (
      ['sample', '--workdir=x', '--storyboard=s.json', '--out=/proc/o.mp4'],
      'error: /proc/o.mp4 cannot be written: No such file or directory; choose'
      ' another path',
    ),
    (
      ['sample', '--workdir=x', '--seed=-1'],
      'error: flag --seed=-1: expected a whole number >= 0',
    ),
    (
      ['sample', '--workdir=x', '--guidance=nan'],
      'error: flag --guidance=nan: expected a finite number',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--config.data.fps=1.5'],
      'error: flag --config.data.fps=1.5: expected a whole number',
    ),
    (
      ['train', '--config=configs/quickstart.py', '--config.ema_decay=x'],
      'error: flag --config.ema_decay=x: expected a number',
    ),
    (
      ['edit', '--workdir=x', '--prompt=a', '--prompt= '],
      "error: --prompt is ' '; describe what the edit shows",
    ),
    (
      ['edit', '--workdir=x', '--prompt=a\udcff'],
      "error: 'a\\udcff' contains '\\udcff', which is not a character of utf-8;"
      ' write the text or the file name again',
    ),
    (
      ['train', '--config', 'nope.py'],
      _NOPE,
    ),
    (
      ['train', '--config=configs/quickstart.py', '--workdir=/proc/w'],
      'error: /proc/w cannot be written: No such file or directory; choose'
      ' another path',
    ),
    (
      [
        'train',
        '--config=configs/quickstart.py',
        '--dry_run',
        '--config.stage=..',
      ],
      "error: config.stage is '..'; it must be the name of a folder or a file,"
      " up to 255 bytes and without '/', for example 3s",
    ),
  ],
)
def test_one_line(command, message):
  done = commands.run(f'ttt_jax.{command[0]}', *command[1:])
  assert done.returncode == 2
  assert done.stderr.strip() == message.replace('{cwd}', str(commands.ROOT))


@pytest.mark.parametrize(
  'text, message',
  [
    ('x = 1', '--config {path} defines no get_config()'),
    ('def get_config(:', '{path}, line 1: SyntaxError: invalid syntax'),
    (
      'a\0b',
      '--config {path} is not Python: source code string cannot contain',
    ),
    ('def get_config():\n  return x', '{path}, line 2: NameError: name'),
    ('import nowhere', '{path}, line 1: ModuleNotFoundError: No module named'),
    ('get_config = lambda: {}', 'get_config() returns dict, not a ConfigDict'),
    ('get_config = lambda: open("no")', '--config {path}: no: No such file or'),
    ('def get_config():\n\n  1 + ""', '{path}, line 3: TypeError: unsupported'),
  ],
)
def test_config_files(tmp_path, monkeypatch, text, message):
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)
  path = tmp_path / 'mine.py'
  path.write_text(text)
  done = commands.run('ttt_jax.train', '--dry_run', f'--config={path}')
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: ') and message.format(path=path) in line


@pytest.mark.parametrize(
  'error, message',
  [
    (PermissionError(errno.EACCES, 'no access', 'a/b'), 'a/b: no access'),
    (IsADirectoryError(errno.EISDIR, 'is a folder', 'a'), 'a: is a folder'),
    (OSError(errno.ENOLCK, 'No locks available'), 'No locks available'),
    (MemoryError(), 'out of memory (MemoryError); train with more --config.'),
    (
      jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 9 bytes\nmore'),
      'out of memory (RESOURCE_EXHAUSTED: 9 bytes); train with',
    ),
    (
      RuntimeError("Unable to initialize backend 'cuda': none\nmore"),
      "Unable to initialize backend 'cuda': none; set JAX_PLATFORMS",
    ),
    (KeyboardInterrupt(), 'interrupted'),
    (TypeError('a defect'), None),
    (RuntimeError('a defect'), None),
  ],
)
def test_errors_of_a_command(error, message, capsys):
  status = 130 if isinstance(error, KeyboardInterrupt) else 2
  with mock.patch.object(app, 'run') as run:
    cli.run(mock.Mock(side_effect=error))
  guarded = run.call_args.args[0]
  if message is None:
    with pytest.raises(type(error)):
      guarded(['x'])
    return
  assert guarded(['x']) == status
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f'error: {message}')


def test_help_for_a_reader_that_leaves():
  # More than a pipe holds is not needed: head leaves before --help begins.
  done = subprocess.run(
    f'{sys.executable} -u -m ttt_jax.sample --help | true',
    shell=True,
    capture_output=True,
    text=True,
    cwd=commands.ROOT,
    env=dict(os.environ, JAX_PLATFORMS='cpu'),
  )
  assert done.stderr == ''
