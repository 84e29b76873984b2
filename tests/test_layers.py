"""Which room may import which: arrows point down, and there are no circles."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# From the ground floor up. A room imports rooms above it in this list, and
# itself; a tuple is a floor whose rooms do not import each other.
FLOORS = {
  'ttt_jax': (
    ('runtime', 'token_order'),
    'sharding',
    ('video', 'storyboard_entries', 'geometry', 'config_schema'),
    'storyboard',
    'pages',
    'models',
    'diffusion',
    'common_flags',
    'backbones',
    'checkpoints',
    'convert',
    'encoders',
    ('data', 'evaluation', 'recipes'),
    'train',
    'pipeline',
    ('inspection', 'annotation'),
    (
      'precompute',
      'sample',
      'edit',
      'evaluate',
      'evaluate_edit',
      'inspect',
      'annotate',
    ),
    '__main__',
    'completion',
  ),
  'ttt_jax.models': (
    ('layers', 'heads', 'frames', 'splash_groups', 'blockwise_attention'),
    ('embeddings', 'resnet', 'softmax', 'text'),
    ('clip', 'dit', 'unet3d', 'vae'),
    'flops',
  ),
  'pallas_kernels': (
    ('types', 'arguments', 'dispatch', 'inner_loss', 'specs'),
    ('inner_loop', 'xla', 'tpu', 'gpu'),
    (
      'ttt_linear',
      'ttt_mlp',
      'ttt_inputs',
      'gated_delta_rule',
      'ssd',
      'frame_delta_rule',
      'large_chunk_ttt',
      'window_attention',
      'permute_rows',
    ),
    'tools',
  ),
  'launch': (
    ('topology', 'commands'),
    ('cloud', 'xla_flags', 'chain'),
    ('planner', 'stages', 'gke', 'slurm', 'tpu_vm'),
    'plan',
  ),
  'examples': (
    ('demo_steps', 'cogvideox_folder', 'vae'),
    ('one_minute', 'shapes', 'cartoon', 'tiny_cogvideox'),
  ),
}
# The trainer's entry hands the function that makes samples to the loop.
EXCEPTIONS = {('ttt_jax.train.__main__', 'ttt_jax.pipeline.training_samples')}
# What each package of the repository may import of the others.
PACKAGES = {
  'pallas_kernels': set(),
  'ttt_jax': {'pallas_kernels'},
  'launch': {'pallas_kernels', 'ttt_jax'},
  'configs': {'ttt_jax'},
  'examples': {'pallas_kernels', 'ttt_jax'},
  'benchmarks': {'pallas_kernels', 'ttt_jax', 'launch', 'configs', 'examples'},
}


def imports(package: str) -> list[tuple[str, str]]:
  """(module, imported name with its module) of all files of a package."""
  found = []
  for path in sorted((ROOT / package).rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    module = '.'.join(p for p in parts if p != '__init__')
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f'{path}: a relative import'
        found += [(module, f'{node.module}.{a.name}') for a in node.names]
      elif isinstance(node, ast.Import):
        found += [(module, a.name) for a in node.names]
  return found


def room(package: str, module: str) -> str:
  return module.removeprefix(f'{package}.').split('.')[0]


@pytest.mark.parametrize('package', PACKAGES)
def test_packages(package):
  allowed = PACKAGES[package] | {package}
  if package == 'configs':  # Recipes do not import each other.
    allowed -= {package}
  wrong = [
    f'{module} imports {name}'
    for module, name in imports(package)
    if (top := name.split('.')[0]) in PACKAGES.keys() | {'tests'}
    and top not in allowed
  ]
  assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('package', FLOORS)
def test_arrows_point_down(package):
  floor = {}
  for level, rooms in enumerate(FLOORS[package]):
    floor |= dict.fromkeys([rooms] if isinstance(rooms, str) else rooms, level)
  inside = f'{package}.'
  wrong = []
  for module, name in imports(package.split('.')[0]):
    if not (module.startswith(inside) and name.startswith(inside)):
      continue
    here, there = room(package, module), room(package, name)
    if here == there or there == '__version__':
      continue
    assert here in floor, f'{module}: add its room to FLOORS'
    assert there in floor, f'{name}: add its room to FLOORS'
    if floor[there] >= floor[here] and (module, name) not in EXCEPTIONS:
      wrong.append(f'{module} imports {name}')
  assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('package', PACKAGES)
def test_no_circles_of_modules(package):
  """Also inside a room, where the table says nothing."""
  arrows: dict[str, set[str]] = {}
  for module, name in imports(package):
    arrows.setdefault(module, set()).add(name)
  modules = set(arrows)
  graph = {
    module: {
      target
      for name in names
      for target in (name, name.rpartition('.')[0])
      if target in modules and target != module
    }
    for module, names in arrows.items()
  }
  done: set[str] = set()

  def visit(module: str, path: tuple[str, ...]) -> None:
    assert module not in path, f'circle: {" -> ".join((*path, module))}'
    if module in done:
      return
    # A package's own __init__ re-exports its modules; they do not import it.
    for target in graph[module]:
      if not module.startswith(target + '.'):
        visit(target, (*path, module))
    done.add(module)

  for module in graph:
    visit(module, ())


def test_kernels_and_models_know_no_files_and_flags():
  wrong = [
    f'{module} imports {name}'
    for package in ('pallas_kernels', 'ttt_jax')
    for module, name in imports(package)
    if module.startswith(('pallas_kernels', 'ttt_jax.models'))
    and not module.startswith('pallas_kernels.tools')
    and name.split('.')[0] in ('absl', 'etils', 'orbax', 'tensorstore', 'av')
  ]
  assert not wrong, '\n'.join(wrong)
