"""Invalid input to a command is reported in one line, with status 2."""

import pytest

from tests.helpers import commands


@pytest.mark.parametrize(
  'command,message',
  [
    (
      ['train', '--config=nope.py', '--workdir=x'],
      'error: --config nope.py does not exist; configs/quickstart.py is one',
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
      "error: --config.NAME=VALUE does not fit the config: 'modle' Did you"
      ' mean "model" instead of "modle"?',
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
      'error: s.json does not exist',
    ),
  ],
)
def test_one_line(command, message):
  done = commands.run(f'ttt_jax.{command[0]}', *command[1:])
  assert done.returncode == 2
  assert done.stderr.strip() == message
