"""The training loop: restores, then repeats batch, step, log and save."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from etils import epath
import jax

from ttt_jax import sharding
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.runtime import disk
from ttt_jax.runtime import progress
from ttt_jax.train import experiment as experiment_lib
from ttt_jax.train import metrics as metrics_lib
from ttt_jax.train import optimizer as optimizer_lib
from ttt_jax.train import preemption
from ttt_jax.train import profile as profile_lib
from ttt_jax.train import step as step_lib
from ttt_jax.train import timing

# Called with all parameters (the trained ones averaged), step, stage folder.
SampleHook = Callable[[Any, int, epath.Path], None]


def restore_or_init(
  experiment: experiment_lib.Experiment,
  optimizer: optimizer_lib.Optimizer,
  checkpoints: checkpoint.Checkpoints,
  mesh: jax.sharding.Mesh,
) -> tuple[
  state_lib.TrainState,
  state_lib.TrainState,
  dict[str, Any] | None,
  float | None,
]:
  """Returns the saved state; else initial weights of `init_from`; else random.

  Returns:
    The state, its shardings, the saved data position and the time of saving;
    the last two are None for a new run.
  """
  init, create, abstract = _state_programs(experiment, optimizer, mesh)
  shardings = jax.tree.map(lambda x: x.sharding, abstract)
  restored = checkpoints.restore(abstract)
  if restored is not None:
    state, data, saved = restored
    print(f'resumes {checkpoints.folder} after step {int(state.step)}')
    return state, shardings, data, saved
  key = step_lib.step_key(experiment.config.seed, 0, step_lib.RngStream.INIT)
  params = init(key)
  if experiment.init_folder is not None:
    loaded = experiment.load_init_params(
      functools.partial(sharding.param_sharding, mesh)
    )
    params, new = state_lib.inherit(params, loaded)
    print(
      f'starts from the weights in {experiment.init_folder};'
      f' new parameters: {_summary(new)}'
    )
  return create(params), shardings, None, None


def _state_programs(experiment, optimizer, mesh):
  """Returns (key -> params, params -> state, the abstract state), jitted."""
  create = functools.partial(
    state_lib.create,
    tx=optimizer.tx,
    trainable=optimizer.trainable,
    ema=experiment.config.ema_decay > 0,
  )
  abstract = jax.eval_shape(create, experiment.abstract_params)
  shardings = sharding.tree_shardings(mesh, abstract)
  return (
    jax.jit(experiment.init, out_shardings=shardings.params),
    jax.jit(create, out_shardings=shardings),
    jax.tree.map(lambda x, s: x.update(sharding=s), abstract, shardings),
  )


def _step_programs(experiment, optimizer, mesh, shardings):
  """Returns the training step and the diagnostics, jitted."""
  config, objective = experiment.config, experiment.objective(mesh)
  step = step_lib.make_step(
    objective.loss_fn,
    optimizer,
    seed=config.seed,
    ema_decay=config.ema_decay,
    microbatches=config.microbatches,
  )
  replicated = sharding.replicated(mesh)
  return (
    jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated)),
    jax.jit(objective.diagnose, out_shardings=replicated),
  )


def _make_mesh_and_optimizer(experiment):
  config = experiment.config
  sharding.check_mesh(
    config.mesh,
    batch_size=config.batch_size,
    microbatches=config.microbatches,
    devices=jax.device_count(),
  )
  return sharding.make_mesh(config.mesh), optimizer_lib.make_optimizer(
    config.optimizer, experiment.abstract_params, config.steps
  )


def precompile(experiment: experiment_lib.Experiment) -> None:
  """Compiles the programs of a stage, so that a training finds them cached.

  Args:
    experiment: Checked experiment.

  Raises:
    ValueError: the mesh does not fit the devices.
  """
  config = experiment.config
  mesh, optimizer = _make_mesh_and_optimizer(experiment)
  init, create, state = _state_programs(experiment, optimizer, mesh)
  shardings = jax.tree.map(lambda x: x.sharding, state)
  step, diagnose = _step_programs(experiment, optimizer, mesh, shardings)
  batch = sharding.put_batch(mesh, next(experiment.batches(mesh)))
  key = step_lib.step_key(config.seed, 0, step_lib.RngStream.INIT)
  programs: list[Any] = [
    (init, key),
    (create, state.params),
    (step, state, batch),
  ]
  if config.diagnose_every:
    programs.append((diagnose, state.params, batch, key))
  for program, *arguments in progress.track(programs, 'compiling programs'):
    program.lower(*arguments).compile()


def _summary(paths: list[str]) -> str:
  """Joins paths of parameters; those that blocks share are listed once."""
  shared = dict.fromkeys(path.partition('/')[2] for path in paths)
  if len(shared) < len(paths):
    paths = [f'*/{path}' for path in shared]
  return ', '.join(paths) or 'none'


def train(
  experiment: experiment_lib.Experiment,
  sample: SampleHook | None = None,
  profile: str = '',
) -> state_lib.TrainState:
  """Runs a stage to its end, or until SIGTERM or Ctrl-C, and saves it.

  Args:
    experiment: Checked experiment.
    sample: Function called every `config.sample_every` steps.
    profile: Steps to trace, 'FIRST:LAST'; '' stands for `config.profile`, if
      any.

  Returns:
    The last state; its `step` is below `config.steps` after a signal.

  Raises:
    ValueError: a loss that is not finite, a full disk, a folder of another
      config, or a mesh that does not fit the devices.
  """
  try:
    return _train(experiment, sample, profile)
  except OSError as e:
    if disk.is_full(e):
      raise ValueError(
        f'the disk is full: cannot write to {experiment.folder}; free space'
        ' and start again; the saved checkpoints are intact'
      ) from e
    raise


def _train(experiment, sample, profile):
  config, folder = experiment.config, experiment.folder
  profile = profile_lib.Profile(
    profile or config.get('profile', ''), folder, config.steps
  )
  checkpoints = checkpoint.Checkpoints(folder, config)
  checkpoints.check_config()
  mesh, optimizer = _make_mesh_and_optimizer(experiment)
  with progress.Bar('preparing the weights', None):
    state, shardings, data, saved = restore_or_init(
      experiment, optimizer, checkpoints, mesh
    )
  train_step, diagnose = _step_programs(experiment, optimizer, mesh, shardings)
  start, first_host = int(state.step), jax.process_index() == 0
  batches = experiment.batches(mesh)
  if data is not None:
    experiment.check_identity(data['identity'], folder)
    batches.set_state(data['batches'])
  due = lambda step, every: every and step % every == 0
  timer = timing.StepTimer(
    experiment.clip_cost(optimizer.trainable),
    config.batch_size,
    list(mesh.devices.flat),
  )
  goodput = timing.Goodput(folder, start, saved, first_host)
  with (
    preemption.PreemptionHandler() as preempted,
    checkpoints,
    metrics_lib.Writer(folder, start, first_host) as writer,
    progress.Bar(f'training {config.stage}', config.steps, start) as bar,
  ):
    names = [clip['name'] for clip in experiment.clips]
    reader = metrics_lib.MetricsReader(writer, timer, goodput, names, config)
    for step in range(start + 1, config.steps + 1):
      with timer.wait_for_data():
        batch = next(batches)
        arrays = sharding.put_batch(mesh, batch)
      profile.before(step)
      with jax.transfer_guard('disallow'):  # No hidden copies in the loop.
        state, metrics = train_step(state, arrays)
      profile.after(step, metrics)
      reader.push(step, metrics, batch['clip'])
      bar.advance(note=reader.note)
      timer.step()
      if due(step, config.diagnose_every):
        key = step_lib.step_key(config.seed, step, step_lib.RngStream.DIAGNOSE)
        with timer.pause():
          diagnostics = jax.device_get(diagnose(state.params, arrays, key))
        reader.extra(metrics_lib.scalars(diagnostics))
      last = preempted.should_stop(step) or step == config.steps
      if last or due(step, config.checkpoint_every):
        # Raises if a step was not finite, before its state is saved.
        reader.flush()
        with timer.pause():
          checkpoints.save(
            state,
            dict(batches=batches.get_state(), identity=experiment.identity()),
          )
          writer.plot()
      if sample is not None and due(step, config.sample_every):
        with timer.pause():
          sample(state_lib.averaged(state), step, folder)
      if last:
        break
  goodput.close(int(state.step) == config.steps)
  if preempted.signal is not None and int(state.step) < config.steps:
    print(
      f'{preempted.signal.name}: saved step {int(state.step)} of {config.steps}'
      f' in {folder}; run the same command again to resume'
    )
  if batches.skipped:
    print(f'clips that could not be read: {dict(batches.skipped)}')
  return state
