"""Flags of every command, config overrides, meshes and names."""

from __future__ import annotations

import functools
import pathlib
import random
import shlex

import yaml

from launch import cloud
from launch import topology as topology_lib
from launch.planner import advice
from tests.fuzz import guard
from tests.fuzz import mutations
from tests.fuzz import target as target_lib
from tests.helpers import commands
from tests.helpers import configs
from ttt_jax import sharding
from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import schedulers

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_CONFIG = f'--config={_ROOT}/configs/quickstart.py'
_INTS = ('1', '2', '50', '0', '-1', '1000', '1001', '99999999999')
_NUMBERS = ('1', '6.0', '0', '-1', '1e9', 'nan', 'inf', '-inf', '1e-300')


def _run(folder: pathlib.Path, command: tuple[str, ...]) -> str:
  """Runs a command; raises its error, and returns its output."""
  module, *arguments = command
  done = commands.run(module, *arguments, cwd=folder)
  lines = done.stderr.splitlines()
  if done.returncode == 0:
    return done.stdout
  if done.returncode not in (1, 2):
    raise guard.Nonsense(f'status: {done.returncode} of {command}')
  if not lines or not lines[-1].startswith('error: '):
    raise ValueError('\n'.join(['no error line', *lines[-3:]]))
  raise ValueError('\n'.join(lines).removeprefix('error: '))


def _flags(rng: random.Random, known: dict[str, tuple[str, ...]]) -> list[str]:
  """Returns flags with values of which some are not valid."""
  found = []
  for name, values in known.items():
    chance = rng.random()
    if chance < 0.06:
      continue
    value = rng.choice(values[:1] if chance < 0.5 else values)
    if chance > 0.93:
      value = mutations.text(rng, *values)
    # No process can be given a NUL, nor an argument that is not UTF-8.
    value = value.replace('\0', '0')
    found.append(f'--{name}={value}')
  if rng.random() < 0.1:
    found.append(rng.choice(('--no_such=1', 'x', '--', '--noema', '-1')))
  rng.shuffle(found)
  # Its overrides follow a config.
  return sorted(found, key=lambda flag: flag.startswith('--config.'))


# Files that the commands find; no model, so nothing is computed.
_FILES = {
  'story.json': b'["A cat sleeps.", "It wakes up."]',
  'edits.json': b'[{"text": "a", "video": "cat.mp4", "start": 0}]',
  'cat.mp4': b'not a video',
  'run/x': b'',
}
_SAMPLING = dict(
  steps=_INTS,
  guidance=_NUMBERS,
  seed=('0', '7', '-1', '4294967296'),
  mesh=('data:1,sp:1', 'sp:0', 'data:-1', 'x:1'),
)
_COMMANDS: dict[str, dict[str, tuple[str, ...]]] = {
  'ttt_jax.sample': _SAMPLING
  | dict(
    workdir=('run', 'missing', ''),
    storyboard=('story.json', 'missing.json', 'cat.mp4', 'story.json#x'),
    prompt=('a cat', '', 'story.json'),
    negative=('x', ''),
    reuse=_INTS,
    out=('a.mp4', 'a.gif', 'missing/a.mp4', 'run', '/proc/a.mp4'),
    guidance_schedule=('cosine', 'constant', 'x'),
    scheduler=('cogvideox_dpm', 'x'),
    ema=('true', 'false', 'x'),
  ),
  'ttt_jax.edit': _SAMPLING
  | dict(
    workdir=('run', 'missing'),
    prompt=('a cat', '', ' '),
    out=('edits', 'cat.mp4', 'gs://b/x'),
    batch=_INTS,
    negative=('x', ''),
    inversion=('true', 'false'),
  ),
  'ttt_jax.evaluate': dict(
    workdir=('run', 'missing'),
    storyboards=('edits.json', 'story.json', 'missing.json'),
    vote=('false', 'true'),
    compare=('false', 'true'),
    ratings=('false', 'true'),
    storyboard=('story.json', 'edits.json#x'),
    key=('story.json', 'missing.json', 'run'),
    questions=_INTS,
    videos=('.', 'missing'),
    out=('a.json', 'run', 'missing/a.json'),
    seeds=_INTS,
    steps=_INTS,
    guidance=_NUMBERS,
    reuse=_INTS,
    ema=('true', 'false', 'x'),
    mesh=('data:1,sp:1', 'sp:0', 'x:1'),
    first_segment=_INTS,
  ),
  'ttt_jax.evaluate_edit': dict(
    clip=('run', 'missing'),
    video=('cat.mp4', 'missing.mp4'),
    prompt=('a cat', ''),
    out=('a.json', 'missing/a.json', 'run'),
  ),
  'ttt_jax.convert': dict(
    source=('run', 'missing', 'cat.mp4', '.'),
    out=('out', 'run', 'run/out', 'cat.mp4', 'cat.mp4/x', '/proc/x'),
    dtype=('float32', 'int8'),
    mixer=('none', 'ttt_mlp', 'x'),
    mini_batch=_INTS,
    seed=_INTS,
    shard_gb=_NUMBERS,
  ),
  'ttt_jax.precompute': {
    'config': (_CONFIG[9:], 'missing.py', 'story.json', f'{_CONFIG[9:]}:x'),
    'workdir': ('run', 'cat.mp4'),
    'check': ('true', 'false'),
    'num_processes': _INTS,
    'process_id': _INTS,
    'config.data.storyboards': ('story.json', 'edits.json', 'missing', 'run'),
    'config.data.videos': ('.', 'missing'),
    'config.text.folder': ('run', 'missing', ''),
    'config.vae.folder': ('run', 'missing', ''),
    'config.data.seconds': ('3', '9', '0', '-3', 'nan', '1e9'),
    'config.data.fps': ('16', '0', '-1'),
    'config.data.height': ('64', '63', '0', '-16'),
  },
}


def _write_command(rng, folder):
  mutations.write(folder, _FILES)
  module = rng.choice(sorted(_COMMANDS))
  return (module, *_flags(rng, _COMMANDS[module]))


target_lib.add(
  target_lib.Target(
    'flags',
    'commands',
    _write_command,
    _run,
    weight=3,
    # Commands import as they go; nothing below the folder is secret here.
    writes=lambda path: path.startswith('named'),
  )
)

_TINY = (
  *('model.model_dim=32', 'model.num_heads=2', 'model.num_layers=1'),
  *('model.time_embed_dim=16', 'model.text_dim=8'),
)
_VALUES = ('0', '-1', '1', '2', '3', 'nan', 'inf', '-inf', '1e30', '8', 'x', '')
# These mean nothing, whatever else the config has.
_WRONG = (
  *('stage=..', 'stage=', 'stage=a/b', 'stage=.', 'steps=0', 'batch_size=-1'),
  *('optimizer.clip=nan', 'optimizer.clip=-1.0', 'optimizer.clip=inf'),
  *('model.num_layers=-1', 'model.num_layers=0', 'model.num_heads=0'),
  *('model.model_dim=-32', 'schedule_shift=0.0', 'schedule_shift=-1.0'),
  *('schedule_shift=nan', 'ema_decay=1.0', 'ema_decay=nan', 'text_dropout=nan'),
  *('model.norm_eps=nan', 'model.ttt_base_lr=nan', 'data.fps=0'),
  *('data.fps=-1', 'data.height=0', 'data.seconds=0', 'data.seconds=nan'),
  *('mesh.data=0', 'mesh.sp=-1', 'text.length=0', 'text.length=-1'),
  *('model.mini_batch=0', 'model.mini_batch=-4', 'log_every=0', 'seed=-1'),
  *('optimizer.groups[0][1].lr=nan', 'optimizer.groups[0][1].lr=-1.0'),
  *('optimizer.groups[0][1].lr=inf', 'optimizer.betas=(1.5,0.5)'),
  *('optimizer.groups[0][1].warmup=-5', 'microbatches=0', 'keep_last=0'),
)


@functools.cache
def _paths() -> list[str]:
  """Returns the names of all values of a config."""
  found = []

  def visit(prefix, value):
    for name, inner in value.items():
      if hasattr(inner, 'items'):
        visit(f'{prefix}{name}.', inner)
      else:
        found.append(f'{prefix}{name}')

  visit('', configs.load('quickstart').get_config())
  return found


def _write_overrides(rng, folder):
  del folder
  is_wrong = rng.random() < 0.4
  if is_wrong:
    overrides = [rng.choice(_WRONG)]
  else:
    overrides = [
      f'{rng.choice(_paths())}={rng.choice(_VALUES)}'
      for _ in range(rng.choice((1, 1, 2)))
    ]
    if rng.random() < 0.1:
      overrides = [mutations.text(rng, *overrides).replace('\0', '0')]
  return is_wrong, overrides


def _read_overrides(folder, argument):
  is_wrong, overrides = argument
  flags = [f'--config.{text}' for text in (*_TINY, *overrides)]
  _run(folder, ('ttt_jax.train', _CONFIG, '--dry_run', *flags))
  if is_wrong:
    raise guard.Nonsense(f'{overrides[0]}: taken')


target_lib.add(
  target_lib.Target(
    'config overrides',
    'commands',
    _write_overrides,
    _read_overrides,
    weight=2,
    reads=lambda path: True,
  )
)

_TOPOLOGIES = (
  *('v5p:8x8x4', 'v5e:16x16', 'v6e:1x1', 'v5e:1x1', 'gpu:h100x8', 'v5p:2x2x1'),
  *('v5p:100000x100000x100000', 'gpu:h100x8000000000', 'v5p:0x1x1', 'v5e:-1x1'),
  *(
    'v5p:4x4',
    'v4:2x2x2',
    'gpu:a100x8',
    'v5e:2x²',
    'v5p:1e3x1x1',
    'v6e:99991x1',
  ),
)
_MESHES = (
  'data:64,sp:4',
  'data:1',
  'sp:0',
  'data:2,data:3',
  'data:10000000000',
)


def _write_topology(rng, folder):
  del folder
  choose = lambda known: (
    rng.choice(known) if rng.random() < 0.6 else mutations.text(rng, *known)
  )
  return choose(_TOPOLOGIES), choose(_MESHES), rng.choice(('train', 'sample'))


def _read_topology(folder, argument):
  del folder
  name, mesh, mode = argument
  found = sharding.parse_mesh(mesh)
  sharding.check_mesh(found, batch_size=64, num_heads=48, devices=256)
  topology = topology_lib.parse(name)
  config = configs.load('ttt_video').get_config('63s')
  if not advice.meshes(config, mode, topology.chips):
    raise ValueError('no mesh')
  topology_lib.largest_memory_slice(topology)
  cloud.find_slice(name)


def _read_topology_alone(folder, argument):
  """A topology with a mesh that is fine."""
  _read_topology(folder, (argument[0], 'data:64,sp:4', argument[2]))


for _name, _read in (
  ('meshes', _read_topology),
  ('topologies', _read_topology_alone),
):
  target_lib.add(
    target_lib.Target(_name, 'launch', _write_topology, _read, weight=0.7)
  )

_STAGES = (
  f'--config={_ROOT}/configs/ttt_video.py:63s',
  '--workdir=gs://b/run',
  '--config.mesh.data=64',
  '--config.mesh.sp=4',
)
_TPU = dict(
  name=('my-run', 'My', 'a' * 63),
  zone=('us-east5-a', 'us'),
  project=('my-project', 'x'),
  topology=('v5p:8x8x4', 'v5e:1x1'),
)
_LAUNCHERS: dict[str, dict[str, tuple[str, ...]]] = {
  'launch.gke': _TPU
  | dict(
    action=('run', 'run', 'cluster', 'image', 'status', 'stop', 'x'),
    cluster=('c', 'my-cluster'),
    bucket=('my-bucket', 'b', 'a.b', '1.2.3.4'),
    image=('us-docker.pkg.dev/p/r/i:1', 'i'),
    service_account=('default', 'x_y'),
    reservation=('r-1', 'projects/p/reservations/r'),
    restarts=_INTS,
    via=('kubectl', 'xpk'),
  ),
  'launch.tpu_vm': _TPU
  | dict(
    action=('create', 'install', 'run', 'status', 'logs', 'delete'),
    runtime=('v2-alpha-tpuv5',),
    fetch=('gs://b/x', 'b', 'gs://b/$(x) y'),
    logs=('logs', '-x', '../logs'),
    spot=('true', 'false'),
  ),
  'launch.slurm': dict(
    name=('my-run', 'a' * 300),
    nodes=('32', *_INTS),
    gpus_per_node=('8', *_INTS),
    time=('24:00:00', '1-00:00:00', '99:99:99', 'x'),
    partition=('p', 'a,b'),
    account=('a',),
  ),
}


def _write_launch(rng, folder):
  del folder
  module = rng.choice(sorted(_LAUNCHERS))
  stages = list(_STAGES)
  if rng.random() < 0.3:
    at = rng.randrange(len(stages))
    stages[at] = mutations.text(rng, stages[at]).replace('\0', '0')
  own = [x for x in _flags(rng, _LAUNCHERS[module]) if x != '--']
  is_run = module == 'launch.slurm' or '--action=run' in own
  return (module, '--dry_run', *own, *(['--', *stages] if is_run else ()))


def _read_launch(folder, command):
  """The printed commands can be pasted; YAML holds values, no structure."""
  text = _run(folder, command)
  text, _, rest = text.partition(" <<'END'\n")
  if rest:
    manifest, end, after = rest.rpartition('END\n')
    assert end and not after, rest[-80:]
    found = yaml.safe_load(manifest)
    job = found['spec']['replicatedJobs'][0]['template']['spec']
    pod = job['template']['spec']
    assert set(pod['containers'][0]) == {
      *('name', 'image', 'command', 'resources', 'volumeMounts')
    }, pod
  assert shlex.split(text, comments=True), text


target_lib.add(
  target_lib.Target(
    'launchers', 'launch', _write_launch, _read_launch, weight=2
  )
)


def _write_sampling(rng, folder):
  del folder
  number = lambda: rng.choice(
    (50, 1, 0, -1, 1000, 1001, 10**9, 6.0, float('nan'), float('inf'), 2.5)
  )
  names = ('cogvideox_dpm', 'cogvideox_ddim', 'reference', 'x', '')
  curves = ('cosine', 'constant', 'reference', 'x')
  return rng.choice(names), rng.choice(curves), number(), number(), number()


def _read_sampling(folder, argument):
  del folder
  name, curve, steps, scale, shift = argument
  if not isinstance(steps, int):
    raise ValueError('a flag is an integer')
  found = schedulers.scheduler(name).schedule(steps, shift)
  guidance.schedule(curve)(scale, steps, found.timesteps)
  target_lib.check_sane([float(scale), float(shift)], 'sampling')


target_lib.add(
  target_lib.Target(
    'sampling options', 'commands', _write_sampling, _read_sampling, weight=0.5
  )
)
