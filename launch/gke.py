"""Runs the stages on a TPU slice of Google Kubernetes Engine.

    python -m launch.gke --action=cluster --cluster=C --zone=us-east5-a \\
        --project=P --bucket=B --topology=v5p:4x8x8 [--spot]
    python -m launch.gke --action=image --image=us-docker.pkg.dev/P/R/I:1
    python -m launch.gke --action=run --name=R --image=... --bucket=B \\
        --topology=... -- --config=configs/ttt_video.py:63s \\
        --workdir=gs://B/run --config.mesh.data=64 --config.mesh.sp=4

and then status, follow, logs, stop, delete_cluster. XPK makes the cluster;
the job is the JobSet of launch/jobset.yaml (`--via=xpk` lets XPK make that,
too). The bucket is seen as /bucket. What stands behind -- goes to
`launch.stages`. `--dry_run` prints commands and JobSet. Needs xpk and docker
for the first two actions, kubectl for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import json
import pathlib
import shlex
import string

from absl import flags

from launch import cloud
from launch import commands
from ttt_jax.runtime import cli

ACTIONS = (
  'cluster',
  'image',
  'run',
  'status',
  'follow',
  'logs',
  'stop',
  'delete_cluster',
)
_TEMPLATE = pathlib.Path(__file__).with_name('jobset.yaml')
_GRACE = 600  # seconds, as in the template
_PODS = '--selector=jobset.sigs.k8s.io/jobset-name={name}'
Command = commands.Command


def jobset(
  name: str,
  rented: cloud.Slice,
  words: Sequence[str],
  *,
  image: str,
  bucket: str,
  service_account: str,
  restarts: int,
) -> str:
  """The JobSet of a run, YAML.

  Args:
    name: of the JobSet.
    rented: the slice.
    words: behind `--`, for `launch.stages`.
    image: of the container.
    bucket: without gs://, mounted as /bucket.
    service_account: of Kubernetes.
    restarts: after how many the JobSet fails.
  """
  command = _stages(rented, words)
  template = string.Template(_TEMPLATE.read_text(encoding='utf-8'))
  return template.substitute(
    name=name,
    restarts=restarts,
    nodes=rented.nodes,
    service_account=service_account,
    label=rented.kind.label,
    shape=rented.shape,
    image=image,
    bucket=bucket,
    command=json.dumps(command),  # A list of JSON is one of YAML.
  )


def xpk_workload(
  name: str,
  rented: cloud.Slice,
  words: Sequence[str],
  *,
  image: str,
  restarts: int,
) -> tuple[str, ...]:
  """What submits a run through XPK; the cluster's storage is at /bucket."""
  command = _stages(rented, words)
  return (
    'xpk',
    'workload',
    'create',
    f'--workload={name}',
    f'--tpu-type={rented.accelerator_type}',
    '--num-slices=1',
    f'--docker-image={image}',
    f'--max-restarts={restarts}',
    f'--restart-on-exit-codes={commands.AGAIN}',
    f'--termination-grace-period-seconds={_GRACE}',
    f'--command={shlex.join(command)}',
  )


def _stages(rented: cloud.Slice, words: Sequence[str]) -> tuple[str, ...]:
  command = commands.stages(words, chip=rented.chip, devices=rented.chips)
  commands.check_shared_workdir(words, rented.nodes)
  return command


def _given(name: str, example: str) -> str:
  """The value of a flag that an action needs."""
  if not (value := flags.FLAGS[name].value):
    raise ValueError(f'--{name} is missing, for example --{name}={example}')
  return value


def _rented() -> cloud.Slice:
  return cloud.slice_of(flags.FLAGS.topology)


def _image_name() -> str:
  return _given('image', 'us-docker.pkg.dev/my-project/my-repo/ttt_jax:1')


def _bucket() -> str:
  bucket = _given('bucket', 'my-bucket')
  if '/' in bucket:
    raise ValueError(f'--bucket is {bucket!r}; give its bare name: my-bucket')
  return bucket


def _where() -> tuple[str, ...]:
  return (
    f'--cluster={commands.check_name("cluster", flags.FLAGS.cluster)}',
    f'--project={_given("project", "my-project")}',
    f'--zone={cloud.check_zone(flags.FLAGS.zone, _rented().kind)}',
  )


def _cluster(_) -> list[Command]:
  spot, reservation = flags.FLAGS.spot, flags.FLAGS.reservation
  if spot and reservation:
    raise ValueError('--spot and --reservation exclude each other')
  capacity = '--spot' if spot else '--on-demand'
  if reservation:
    capacity = f'--reservation={reservation}'
  create = (
    'xpk',
    'cluster',
    'create',
    *_where(),
    f'--tpu-type={_rented().accelerator_type}',
    '--num-slices=1',
    capacity,
    '--enable-gcsfuse-csi-driver',
  )
  attach = (
    'xpk',
    'storage',
    'attach',
    'bucket',
    *_where(),
    '--type=gcsfuse',
    f'--bucket={_bucket()}',
    '--mount-point=/bucket',
    '--readonly=true',
    '--size=1',
    '--auto-mount=true',
  )
  return [
    Command(create, 'a cluster with JobSet and a node pool for the slice'),
    Command(attach, 'the bucket, for what XPK submits'),
  ]


def _image(_) -> list[Command]:
  image = _image_name()
  file = '--file=launch/Dockerfile'
  return [
    Command(('docker', 'build', file, f'--tag={image}', '.'), 'build'),
    Command(('docker', 'push', image), 'push'),
  ]


def _run(words: Sequence[str]) -> list[Command]:
  f = flags.FLAGS
  name, rented = commands.check_name('name', f.name), _rented()
  if f.via == 'xpk':
    submit = xpk_workload(
      name, rented, words, image=_image_name(), restarts=f.restarts
    )
    return [Command((*submit, *_where()), 'submit it through XPK')]
  text = jobset(
    name,
    rented,
    words,
    image=_image_name(),
    bucket=_bucket(),
    service_account=f.service_account,
    restarts=f.restarts,
  )
  file = pathlib.Path(f'{name}.yaml')
  if f.dry_run:
    print(f'# {file}:\n{text}')
  else:
    file.write_text(text, encoding='utf-8')
  return [Command(('kubectl', 'apply', f'--filename={file}'), 'submit it')]


def _kubectl(why: str, *words: str) -> Command:
  """kubectl with the run's name filled in."""
  name = commands.check_name('name', flags.FLAGS.name)
  container = 'stages' if flags.FLAGS.via == 'kubectl' else 'jax-tpu'
  filled = (w.format(name=name, container=container) for w in words)
  return Command(('kubectl', *filled), why)


def _status(_) -> list[Command]:
  return [
    _kubectl('restarts and end', 'get', 'jobset', '{name}'),
    _kubectl('one line a pod', 'get', 'pods', _PODS),
  ]


def _follow(_) -> list[Command]:
  return [
    _kubectl(
      'the log of the first pod; Ctrl-C ends this',
      'logs',
      '--follow',
      f'{_PODS},batch.kubernetes.io/job-completion-index=0',
      '--container={container}',
      '--tail=50',
    )
  ]


def _logs(_) -> list[Command]:
  return [
    _kubectl(
      'all logs',
      'logs',
      _PODS,
      '--container={container}',
      '--prefix',
      '--tail=-1',
      '--max-log-requests=1024',
    )
  ]


def _stop(_) -> list[Command]:
  return [_kubectl('save and end', 'delete', 'jobset', '{name}')]


def _delete_cluster(_) -> list[Command]:
  words = ('xpk', 'cluster', 'delete', *_where())
  return [Command(words, 'nothing is paid for it any more')]


_DO: dict[str, Callable[[Sequence[str]], list[Command]]] = dict(
  cluster=_cluster,
  image=_image,
  run=_run,
  status=_status,
  follow=_follow,
  logs=_logs,
  stop=_stop,
  delete_cluster=_delete_cluster,
)


def define_flags() -> None:
  """The flags of this command."""
  flags.DEFINE_enum('action', None, ACTIONS, 'What to do.')
  flags.DEFINE_string('name', None, 'Of the run; you choose it.')
  flags.DEFINE_string('cluster', None, 'Of GKE; you choose it.')
  flags.DEFINE_string('zone', None, 'Such as us-east5-a.')
  flags.DEFINE_string('project', None, "Google's.")
  flags.DEFINE_string('topology', None, 'As of launch.plan, such as v5p:4x8x8.')
  flags.DEFINE_bool('spot', False, 'Cheap, may be taken at any moment.')
  flags.DEFINE_string('reservation', None, 'The name of yours.')
  flags.DEFINE_string('image', None, 'Where its container image lies.')
  flags.DEFINE_string('bucket', None, 'Seen as /bucket by the pods.')
  flags.DEFINE_string(
    'service_account',
    'default',
    'Of Kubernetes; has the roles Storage Object Admin and Storage Legacy'
    ' Bucket Reader on the bucket.',
  )
  flags.DEFINE_integer(
    'restarts', 20, 'After how many to give up.', lower_bound=0
  )
  flags.DEFINE_enum('via', 'kubectl', ['kubectl', 'xpk'], 'Who submits.')
  commands.define_dry_run()


def main(argv: Sequence[str]) -> int:
  """Entry point."""
  action = flags.FLAGS.action
  if action is None:
    raise ValueError(f'--action is missing; legal are {", ".join(ACTIONS)}')
  if argv[1:] and action != 'run':
    raise ValueError(f'unexpected argument {argv[1]!r}; see --help')
  return commands.run(_DO[action](argv[1:]), flags.FLAGS.dry_run)


if __name__ == '__main__':
  define_flags()
  cli.run(main, arguments=True)
