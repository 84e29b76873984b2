"""Examples print what they say, functions have type hints, prose has rules."""

import ast
import doctest
import importlib
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import inner_loop
from tests.helpers import tiny_cogvideox
from ttt_jax import pipeline

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODULES = sorted(
  path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')
  for package in ('ttt_jax', 'pallas_kernels')
  for path in (ROOT / package).rglob('*.py')
  if '  >>> ' in path.read_text()
)
PAGES = sorted(
  path.relative_to(ROOT).as_posix()
  for path in (ROOT / 'docs').rglob('*.md')
  if '\n>>> ' in path.read_text()
)
SOURCES = (
  'benchmarks',
  'configs',
  'docs',
  'examples',
  'launch',
  'notebooks',
  'pallas_kernels',
  'ttt_jax',
)
# An entry of a section such as Args or Attributes that is not a noun phrase.
_ENTRY = re.compile(
  r'^ +\S+(?:, \S+)*: (?:how|of|that|what|where|who) .*', re.M | re.I
)


def test_the_main_names_have_examples():
  assert 'ttt_jax.geometry' in MODULES
  assert 'ttt_jax.storyboard' in MODULES
  assert len([m for m in MODULES if m.startswith('pallas_kernels')]) > 4


@pytest.mark.parametrize('name', MODULES)
def test_docstrings(name):
  assert not doctest.testmod(importlib.import_module(name)).failed


@pytest.mark.parametrize('name', PAGES)
def test_pages(name):
  done = doctest.testfile(str(ROOT / name), module_relative=False)
  assert done.attempted and not done.failed


def python_blocks(page):
  """The blocks of Python on a page, as programs."""
  text = (ROOT / page).read_text()
  return re.findall(r'^```python\n(.*?)^```', text, re.M | re.S)


def test_the_readme_samples(tmp_path, monkeypatch):
  """With a tiny CogVideoX as the workdir, and two steps instead of fifty."""
  tiny_cogvideox.write_model(tmp_path / 'workdir')
  monkeypatch.chdir(tmp_path)
  defaults = pipeline.VideoPipeline.__call__.__kwdefaults__
  monkeypatch.setitem(defaults, 'steps', 2)
  scope = {}
  for block in python_blocks('README.md'):
    exec(block, scope)
  assert len(scope['video']) == 97  # two texts
  assert (tmp_path / 'story.mp4').stat().st_size > 0


@pytest.mark.parametrize(
  'interpreted',
  # A TPU's kernel in Pallas' interpreter takes a minute of one core.
  [False, pytest.param(True, marks=pytest.mark.slow)],
)
def test_the_readme_of_the_ops(interpreted):
  blocks = python_blocks('pallas_kernels/README.md')
  assert len(blocks) >= 3
  scope = {}
  for block in blocks:
    if interpreted or 'interpret_mode' not in block:
      exec(block, scope)
  assert scope['out'].shape[0] == 1


def test_the_layer_by_hand_is_the_definition():
  page = (ROOT / 'docs/layer.md').read_text()
  scope = {}
  exec(re.search(r'```python\n(.*?)```', page, re.S)[1], scope)
  q, k, v = jax.random.normal(jax.random.key(0), (3, 128, 16))
  tokens = q, k, v, jnp.full(128, 0.01)
  out, state = scope['ttt_layer'](jnp.eye(16), *tokens)
  expected, last = inner_loop.inner_loop(
    lambda w, x: x @ w,
    jnp.eye(16)[None, None],
    *(x[None, None] for x in tokens),
    jnp.ones((1, 16)),
    jnp.zeros((1, 16)),
    mini_batch=64,
  )
  np.testing.assert_allclose(out, expected[0, 0], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(state, last[0, 0], rtol=1e-4, atol=1e-4)


def strings(tree):
  """Yields the texts of a module, those of f-strings with gaps as '{}'."""
  parts = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.JoinedStr):
      parts |= {id(value) for value in node.values}
      yield ''.join(
        str(value.value) if isinstance(value, ast.Constant) else '{}'
        for value in node.values
      )
    elif isinstance(node, ast.Constant) and id(node) not in parts:
      if isinstance(node.value, str):
        yield node.value


def flag_helps(tree):
  """Yields the arguments of calls that define flags."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Call):
      function = ast.unparse(node.func)
      if 'DEFINE' in function or function.endswith(('.define', 'add_argument')):
        keywords = [keyword.value for keyword in node.keywords]
        for value in [*node.args[1:], *keywords]:
          if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def missing_hints(body, owner=''):
  """Yields the public functions and methods without all of their hints."""
  for node in body:
    if isinstance(node, ast.ClassDef):
      yield from missing_hints(node.body, f'{owner}{node.name}.')
    elif isinstance(node, ast.If | ast.Try | ast.With):
      yield from missing_hints(ast.iter_child_nodes(node), owner)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      if node.name.startswith('_') and node.name != '__call__':
        continue
      args = node.args
      found = [*args.posonlyargs, *args.args]
      decorators = map(ast.unparse, node.decorator_list)
      if owner and 'staticmethod' not in decorators:
        found = found[1:]  # Without self or cls.
      found += [*args.kwonlyargs, args.vararg, args.kwarg]
      names = [arg.arg for arg in found if arg and arg.annotation is None]
      names += [] if node.returns else ['its result']
      if names:
        yield f'{owner}{node.name}: no hint of {", ".join(names)}'


def prose_problems(tree):
  """Returns breaches of the rules of CONTRIBUTING.md that have a pattern."""
  kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
  nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
  docs = [ast.get_docstring(node) or '' for node in nodes]
  return (
    [f'not a noun phrase: {m}' for d in docs for m in _ENTRY.findall(d)]
    + [f'what does it do? {d}' for d in docs if d.startswith('Entry point')]
    + [
      f'a noun phrase instead of {text!r}'
      for text in flag_helps(tree)
      if text.startswith('Whether ')
    ]
    + [
      f'"expected one of" instead of {text!r}'
      for text in strings(tree)
      if 'must be one of' in ' '.join(text.split())
    ]
  )


@pytest.mark.parametrize('package', SOURCES)
def test_prose(package):
  problems = [
    f'{path.relative_to(ROOT)}: {problem}'
    for path in sorted((ROOT / package).rglob('*.py'))
    for problem in prose_problems(ast.parse(path.read_text()))
  ]
  assert not problems, '\n'.join(problems)


@pytest.mark.parametrize('package', ['launch', 'pallas_kernels', 'ttt_jax'])
def test_public_functions_have_type_hints(package):
  problems = [
    f'{path.relative_to(ROOT)}: {problem}'
    for path in sorted((ROOT / package).rglob('*.py'))
    for problem in missing_hints(ast.parse(path.read_text()).body)
  ]
  assert not problems, '\n'.join(problems)


@pytest.mark.parametrize(
  ('code', 'missing'),
  [
    ('def f(a: int, *b: int, c: int, **d: int) -> int: ...', ''),
    ('def f(a: int, *, b) -> int: ...', 'f: no hint of b'),
    ('def f(*a, **b) -> int: ...', 'f: no hint of a, b'),
    ('async def f(): ...', 'f: no hint of its result'),
    ('if 1: pass\nelse:\n  def f(): ...', 'f: no hint of its result'),
    ('class A:\n  def f(self) -> int: ...', ''),
    ('class _A:\n  def f(self, b) -> int: ...', '_A.f: no hint of b'),
    (
      'class A:\n  @staticmethod\n  def f(b) -> int: ...',
      'A.f: no hint of b',
    ),
    (
      'class A:\n  def __call__(self): ...',
      'A.__call__: no hint of its result',
    ),
    ('def _f(a): ...\ndef f() -> int:\n  def g(a): ...', ''),
  ],
)
def test_missing_hints_are_found(code, missing):
  assert ''.join(missing_hints(ast.parse(code).body)) == missing


@pytest.mark.parametrize(
  'code',
  [
    'def f():\n  """Adds.\n\n  Args:\n    a: What it adds.\n  """',
    'def f():\n  """Adds.\n\n  Args:\n    a, b: of both.\n  """',
    'def main():\n  """Entry point."""',
    "flags.DEFINE_bool('a', False, 'Whether to add.')",
    "raise ValueError(f'{a} must be'\n  f' one of {b}')",
  ],
)
def test_prose_problems_are_found(code):
  assert len(prose_problems(ast.parse(code))) == 1
