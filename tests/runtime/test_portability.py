"""The library without what only POSIX has, as on Windows."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Libraries are imported before the names disappear: only ours are tested.
SCRIPT = """
import importlib, os, pkgutil, signal, sys, time

from absl import flags
import jax, numpy, av, flax.linen, grain, orbax.checkpoint, optax, PIL.Image
import orbax.checkpoint.experimental.v1, tensorboardX, tokenizers, yaml
import matplotlib.pyplot, ml_collections.config_flags, rich.table, socket
import safetensors.numpy, sentencepiece, tensorstore, jax.experimental.pallas
from jax.experimental import multihost_utils, topologies
from jax.experimental.pallas import tpu, triton

for name in (
  'fcntl grp pwd resource termios tty pty posix syslog readline'.split()
):
  sys.modules[name] = None
for name in dir(os):
  if name.startswith(('EX_', 'sched_', 'posix_', 'WIF', 'WEX', 'RTLD', 'P_')):
    delattr(os, name)
for name in (
  'fork forkpty uname getuid geteuid getgid getegid setsid getpgid killpg nice'
  ' statvfs fstatvfs chown fchown fchmod mkfifo mknod sysconf confstr'
  ' getloadavg wait wait3 wait4 sync fdatasync pread pwrite sendfile'
).split():
  if hasattr(os, name):
    delattr(os, name)
for name in (
  'SIGALRM SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGSTOP'
  ' alarm pause pthread_kill pthread_sigmask setitimer sigwait'
).split():
  delattr(signal, name)
del time.tzset

# Commands define flags of the same names; a process runs one of them.
define = flags._defines.DEFINE_flag


def define_again(flag, *args, **options):
  flag.allow_override = True
  return define(flag, *args, **options)


flags._defines.DEFINE_flag = flags.DEFINE_flag = define_again
count = 0
for package in sys.argv[1].split(','):
  package = importlib.import_module(package)
  for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):
    importlib.import_module(module.name)
    count += 1

from ttt_jax import geometry, storyboard
from ttt_jax.runtime import cli, distributed, files

files.write_json({'segments': ['A cat.']}, 'story.json')
assert storyboard.Storyboard.load('story.json').seconds == 3
with files.atomic_folder('out') as temporary:
  (temporary / 'x').write_text('y')
geometry.Geometry.from_seconds(9, 480, 720)
try:
  files.read_json('missing.json')
except FileNotFoundError as e:
  print(cli.describe(e))
print(count)
sys.exit(distributed.hard_exit(distributed.TRY_AGAIN))
"""


def test_imports_and_files_without_posix(tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT, 'ttt_jax,pallas_kernels,launch'],
    cwd=tmp_path,
    env=dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS='cpu'),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 75, done.stderr
  message, count = done.stdout.splitlines()
  assert 'missing.json does not exist' in message
  assert int(count) > 150
  assert (tmp_path / 'out' / 'x').exists()
