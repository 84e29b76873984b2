"""Measures what a program costs before it runs: its size and its compilation.

    python -m benchmarks.programs [--programs=NAME,...] [--run] [--write_budget]

Prints for each program the lines of StableHLO and the processor seconds of
tracing (with lowering) and of compiling on this machine's CPU, with --run also
the seconds of the fastest of a few calls. Lines depend on the program and the
version of JAX alone: `programs_budget.json` contains them, and a test fails if
a program grows by a tenth. --write_budget writes the file anew. Times of two
versions can only be compared side by side, on one machine in one hour.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import json
import pathlib
import time
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from configs import quickstart
from configs import tune_a_video
from launch.planner import program
import pallas_kernels
from pallas_kernels.specs import SPECS
from pallas_kernels.ttt_linear import specs as linear_specs
from pallas_kernels.ttt_mlp import specs as mlp_specs
from ttt_jax import sharding
from ttt_jax.models.text import t5
from ttt_jax.models.vae import causal3d
from ttt_jax.runtime import cli

BUDGET = pathlib.Path(__file__).with_name('programs_budget.json')
_OPS = {
  'ttt_mlp': (pallas_kernels.ttt_mlp, mlp_specs),
  'ttt_linear': (pallas_kernels.ttt_linear, linear_specs),
}
# A jitted function and its abstract arguments.
Program = tuple[Any, tuple[Any, ...]]

_PROGRAMS = flags.DEFINE_list('programs', [], 'Programs; all by default.')
_RUN = flags.DEFINE_bool('run', False, 'Times of calls, too.')
_WRITE = flags.DEFINE_bool(
  'write_budget', False, 'Replacement of the budget by the results.'
)


def _quickstart(build: Callable[..., Program], **model: Any) -> Program:
  config = quickstart.get_config('3s')
  config.model.update(model)
  return build(config, sharding.make_mesh(config.mesh))


def _unet(build: Callable[..., Program]) -> Program:
  """A U-Net of two narrow levels on eight frames of 64 x 64 pixels."""
  config = tune_a_video.get_config()
  config.data.update(frames=8, height=64, width=64)
  config.model.update(
    block_out_channels=(32, 64),
    cross_attention=(True, False),
    num_heads=(4, 4),
    text_dim=64,
  )
  return build(config, sharding.make_mesh(config.mesh))


def _op(name: str, size: str, gradients: bool = True) -> Program:
  """An inner loop of a size of `SPECS`, or the gradients in all arguments."""
  op, specs = _OPS[name]
  spec = SPECS[size]

  def forward(arguments):
    return op(**arguments, mini_batch=spec.mini_batch)[0]

  def both(arguments):
    return jax.grad(lambda x: jnp.sum(jnp.sin(forward(x))))(arguments)

  return jax.jit(both if gradients else forward), (specs.shapes(spec),)


def _module(module: Any, params: Any, *inputs: Any, **kwargs: Any) -> Program:
  apply = functools.partial(module.apply, **kwargs)
  return jax.jit(apply), ({'params': params}, *inputs)


def _decoder() -> Program:
  """The demonstration's autoencoder at 64 x 96 pixels, 9 frames."""
  config = causal3d.CausalVAEConfig(
    block_out_channels=(32, 64, 80), layers_per_block=1, norm_num_groups=8
  )
  params = jax.eval_shape(
    functools.partial(causal3d.init_params, config), jax.random.key(0)
  )
  latents = jax.ShapeDtypeStruct((1, 3, 16, 24, 16), jnp.float32)
  module = causal3d.CausalVAE(config)
  return _module(module, params, latents, method='decode')


def _t5() -> Program:
  """A narrow T5 on two texts of 226 tokens."""
  config = t5.T5Config(
    vocab_size=1000,
    width=128,
    num_layers=4,
    num_heads=4,
    head_dim=32,
    mlp_dim=256,
  )
  ids = jax.ShapeDtypeStruct((2, 226), jnp.int32)
  return _module(t5.T5Encoder(config), t5.abstract_params(config), ids)


_sample = functools.partial(program.sampling, steps=25)
PROGRAMS: dict[str, Callable[[], Program]] = {
  'quickstart step': lambda: _quickstart(program.train_step),
  'quickstart step, no mixer': lambda: _quickstart(
    program.train_step, mixer='none'
  ),
  'quickstart sampler': lambda: _quickstart(_sample),
  'TTT-MLP, quickstart, forward': lambda: _op(
    'ttt_mlp', 'quickstart_3s', False
  ),
  'TTT-MLP, quickstart': lambda: _op('ttt_mlp', 'quickstart_3s'),
  'TTT-MLP, benchmark': lambda: _op('ttt_mlp', 'benchmark'),
  'TTT-Linear, quickstart': lambda: _op('ttt_linear', 'quickstart_3s'),
  'VAE decode': _decoder,
  'T5': _t5,
  'U-Net tuning step': lambda: _unet(program.train_step),
  'U-Net edit': lambda: _unet(_sample),
}


@dataclasses.dataclass
class Cost:
  """Cost of one program; seconds of `trace` and `compile` are the processor's.

  Attributes:
    lines: Lines of StableHLO.
    trace: Seconds of tracing and lowering.
    compile: Seconds of compiling.
    run: Wall seconds of the fastest call; None if it was not timed.
  """

  lines: int
  trace: float
  compile: float
  run: float | None = None


def lines(name: str) -> int:
  """Returns the lines of StableHLO of a program, without compiling it."""
  function, arguments = PROGRAMS[name]()
  return function.lower(*arguments).as_text().count('\n')


def measure(name: str, run: bool) -> Cost:
  """Traces, compiles and perhaps calls a program."""
  function, arguments = PROGRAMS[name]()
  start = time.process_time()
  lowered = function.lower(*arguments)
  traced = time.process_time()
  compiled = lowered.compile()
  seconds = time.process_time() - traced
  cost = Cost(lowered.as_text().count('\n'), traced - start, seconds)
  if run:
    cost.run = _least_seconds(compiled, arguments)
  return cost


def _least_seconds(compiled: Any, arguments: Any, calls: int = 4) -> float:
  rng = np.random.default_rng(0)

  def values(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    # Small and positive: second moments of an optimizer are arguments, too.
    array = 0.01 * rng.random(x.shape)
    return jax.device_put(array.astype(x.dtype), x.sharding)

  times = []
  for _ in range(calls):
    given = jax.tree.map(values, arguments)  # The step donates its state.
    start = time.perf_counter()
    jax.block_until_ready(compiled(*given))
    times.append(time.perf_counter() - start)
  return min(times)


def main(_) -> None:
  names = _PROGRAMS.value or list(PROGRAMS)
  if unknown := [name for name in names if name not in PROGRAMS]:
    raise ValueError(
      f'--programs={unknown[0]!r}; expected some of {", ".join(PROGRAMS)}'
    )
  print(
    f'{"program":32}{"lines":>8}{"trace s":>9}{"compile s":>11}{"run s":>9}'
  )
  budget = dict(jax=jax.__version__, lines={})
  for name in names:
    cost = measure(name, _RUN.value)
    seconds = '' if cost.run is None else f'{cost.run:9.3f}'
    print(
      f'{name:32}{cost.lines:8}{cost.trace:9.2f}{cost.compile:11.2f}{seconds}',
      flush=True,
    )
    budget['lines'][name] = cost.lines
  if _WRITE.value:
    BUDGET.write_text(json.dumps(budget, indent=2) + '\n')


if __name__ == '__main__':
  cli.run(main)
