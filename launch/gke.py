"""Runs the stages on a TPU slice of Google Kubernetes Engine.

    python -m launch.gke --action=cluster --cluster=C --zone=us-east5-a \\
        --project=P --bucket=B --topology=v5p:8x8x4 [--spot]
    python -m launch.gke --action=image --image=us-docker.pkg.dev/P/R/I:1
    python -m launch.gke --action=run --name=R --image=... --bucket=B \\
        --topology=... -- --config=configs/ttt_video.py:63s \\
        --workdir=gs://B/run --config.mesh.data=64 --config.mesh.sp=4

followed by status, follow, logs, stop, delete_cluster. XPK creates the cluster.
The job is a JobSet; `--via=xpk` submits it through XPK instead. Pods see the
bucket as /bucket. Flags after -- are those of `launch.stages`. `--dry_run`
prints the commands with their input. `cluster` requires xpk, `image` docker,
and the other actions kubectl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import shlex
from typing import Any

from absl import flags
import yaml

from launch import cloud
from launch import commands
from ttt_jax.runtime import cli
from ttt_jax.runtime import distributed

# Seconds that a pod has to save after SIGTERM.
_GRACE_SECONDS = 600
_CONTAINER = 'stages'
Command = commands.Command


def jobset(
  name: str,
  tpu_slice: cloud.CloudSlice,
  stage_flags: Sequence[str],
  *,
  image: str,
  bucket: str,
  service_account: str,
  restarts: int,
) -> dict[str, Any]:
  """Returns the JobSet of a run, one pod per machine of the slice.

  Exit status 2 of `launch.stages` is an error that the user has to fix, which
  fails the JobSet at once. Any other failure (75: stopped by a signal; a killed
  pod; a lost machine) restarts all pods, and training resumes from its last
  checkpoint.

  Args:
    name: name of the JobSet.
    tpu_slice: slice that the pods share.
    stage_flags: flags of `launch.stages`.
    image: container image.
    bucket: bucket without gs://, mounted as /bucket.
    service_account: Kubernetes service account of the pods.
    restarts: restarts after which the JobSet fails.
  """
  container = {
    'name': _CONTAINER,
    'image': image,
    'command': list(_stages(tpu_slice, stage_flags)),
    'resources': {
      'limits': {'google.com/tpu': tpu_slice.chips // tpu_slice.nodes}
    },
    'volumeMounts': [
      {'name': 'bucket', 'mountPath': '/bucket', 'readOnly': True},
      {'name': 'memory', 'mountPath': '/dev/shm'},
    ],
  }
  # Videos and pre-trained weights; checkpoints are written to gs:// directly.
  bucket_volume = {
    'driver': 'gcsfuse.csi.storage.gke.io',
    'readOnly': True,
    'volumeAttributes': {'bucketName': bucket},
  }
  pod = {
    'restartPolicy': 'Never',
    'serviceAccountName': service_account,
    'terminationGracePeriodSeconds': _GRACE_SECONDS,
    'nodeSelector': {
      'cloud.google.com/gke-tpu-accelerator': tpu_slice.tpu_type.label,
      'cloud.google.com/gke-tpu-topology': tpu_slice.shape,
    },
    'tolerations': [{'key': 'google.com/tpu', 'operator': 'Exists'}],
    'containers': [container],
    'volumes': [
      {'name': 'bucket', 'csi': bucket_volume},
      {'name': 'memory', 'emptyDir': {'medium': 'Memory'}},
    ],
  }
  user_error = {
    'action': 'FailJob',
    'onExitCodes': {
      'containerName': _CONTAINER,
      'operator': 'In',
      'values': [2],
    },
  }
  job = {
    # None of the pods works without the others.
    'parallelism': tpu_slice.nodes,
    'completions': tpu_slice.nodes,
    'completionMode': 'Indexed',
    'backoffLimit': 0,
    'podFailurePolicy': {'rules': [user_error]},
    'template': {
      'metadata': {'annotations': {'gke-gcsfuse/volumes': 'true'}},
      'spec': pod,
    },
  }
  fail_at_once = {
    'name': 'userError',
    'action': 'FailJobSet',
    'onJobFailureReasons': ['PodFailurePolicy'],
  }
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': {
      'name': name,
      # All pods on one node pool: a slice is wired together.
      'annotations': {
        'alpha.jobset.sigs.k8s.io/exclusive-topology': (
          'cloud.google.com/gke-nodepool'
        )
      },
    },
    'spec': {
      'failurePolicy': {'maxRestarts': restarts, 'rules': [fail_at_once]},
      'replicatedJobs': [
        {'name': 'slice', 'replicas': 1, 'template': {'spec': job}}
      ],
    },
  }


def xpk_workload(
  name: str,
  tpu_slice: cloud.CloudSlice,
  stage_flags: Sequence[str],
  *,
  image: str,
  restarts: int,
) -> tuple[str, ...]:
  """Returns XPK's command for a run; its storage is mounted at /bucket."""
  command = _stages(tpu_slice, stage_flags)
  return (
    *('xpk', 'workload', 'create'),
    f'--workload={name}',
    f'--tpu-type={tpu_slice.accelerator_type}',
    '--num-slices=1',
    f'--docker-image={image}',
    f'--max-restarts={restarts}',
    f'--restart-on-exit-codes={distributed.TRY_AGAIN}',
    f'--termination-grace-period-seconds={_GRACE_SECONDS}',
    f'--command={shlex.join(command)}',
  )


def _stages(tpu_slice, stage_flags) -> tuple[str, ...]:
  return commands.stages_command(
    stage_flags,
    chip=tpu_slice.chip,
    devices=tpu_slice.chips,
    hosts=tpu_slice.nodes,
  )


def _flag(name: str, syntax: commands.Syntax) -> str:
  """Returns the value of a flag that an action requires."""
  return commands.check(name, flags.FLAGS[name].value, syntax)


def _slice() -> cloud.CloudSlice:
  return cloud.find_slice(flags.FLAGS.topology)


def _cluster_flags() -> tuple[str, ...]:
  """Returns the flags of XPK that identify the cluster."""
  zone = cloud.check_zone(flags.FLAGS.zone, _slice().tpu_type)
  return (
    f'--cluster={_flag("cluster", commands.NAME)}',
    f'--project={_flag("project", commands.PROJECT)}',
    f'--zone={zone}',
  )


def _cluster(_) -> list[Command]:
  capacity = '--spot' if flags.FLAGS.spot else '--on-demand'
  if flags.FLAGS.reservation:
    if flags.FLAGS.spot:
      raise ValueError('--spot and --reservation exclude each other')
    capacity = f'--reservation={_flag("reservation", commands.RESERVATION)}'
  create = (
    *('xpk', 'cluster', 'create'),
    *_cluster_flags(),
    f'--tpu-type={_slice().accelerator_type}',
    '--num-slices=1',
    capacity,
    '--enable-gcsfuse-csi-driver',
  )
  attach = (
    *('xpk', 'storage', 'attach', 'bucket'),
    *_cluster_flags(),
    '--type=gcsfuse',
    f'--bucket={_flag("bucket", commands.BUCKET)}',
    '--mount-point=/bucket',
    '--readonly=true',
    '--size=1',
    '--auto-mount=true',
  )
  return [
    Command(create, 'create a cluster with JobSet and a node pool'),
    Command(attach, 'attach the bucket, for jobs that XPK submits'),
  ]


def _image(_) -> list[Command]:
  image = _flag('image', commands.IMAGE)
  file = '--file=launch/Dockerfile'
  return [
    Command(('docker', 'build', file, f'--tag={image}', '.'), 'build'),
    Command(('docker', 'push', image), 'push'),
  ]


def _run(stage_flags: Sequence[str]) -> list[Command]:
  options = flags.FLAGS
  name, image = _flag('name', commands.NAME), _flag('image', commands.IMAGE)
  if options.via == 'xpk':
    submit = xpk_workload(
      name, _slice(), stage_flags, image=image, restarts=options.restarts
    )
    return [Command((*submit, *_cluster_flags()), 'submit through XPK')]
  manifest = jobset(
    name,
    _slice(),
    stage_flags,
    image=image,
    bucket=_flag('bucket', commands.BUCKET),
    service_account=_flag('service_account', commands.SERVICE_ACCOUNT),
    restarts=options.restarts,
  )
  text = yaml.safe_dump(manifest, sort_keys=False)
  return [Command(('kubectl', 'apply', '--filename=-'), 'submit', text)]


def _pods() -> str:
  """Returns the selector of the run's pods."""
  name = _flag('name', commands.NAME)
  return f'--selector=jobset.sigs.k8s.io/jobset-name={name}'


def _container() -> str:
  xpk = flags.FLAGS.via == 'xpk'
  return f'--container={"jax-tpu" if xpk else _CONTAINER}'


def _status(_) -> list[Command]:
  name = _flag('name', commands.NAME)
  return [
    Command(('kubectl', 'get', 'jobset', name), 'show restarts and end'),
    Command(('kubectl', 'get', 'pods', _pods()), 'show one line per pod'),
  ]


def _follow(_) -> list[Command]:
  pod = f'{_pods()},batch.kubernetes.io/job-completion-index=0'
  return [
    Command(
      ('kubectl', 'logs', '--follow', pod, _container(), '--tail=50'),
      "show the first pod's log until Ctrl-C",
    )
  ]


def _logs(_) -> list[Command]:
  limits = ('--tail=-1', '--max-log-requests=1024')
  return [
    Command(
      ('kubectl', 'logs', _pods(), _container(), '--prefix', *limits),
      'show all logs',
    )
  ]


def _stop(_) -> list[Command]:
  name = _flag('name', commands.NAME)
  return [Command(('kubectl', 'delete', 'jobset', name), 'save and stop')]


def _delete_cluster(_) -> list[Command]:
  return [
    Command(
      ('xpk', 'cluster', 'delete', *_cluster_flags()),
      'delete the cluster, which ends its costs',
    )
  ]


ACTIONS: dict[str, Callable[[Sequence[str]], list[Command]]] = dict(
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
  """Defines the flags of this command."""
  flags.DEFINE_enum('action', None, list(ACTIONS), 'Action to perform.')
  commands.define_flags('name', 'zone', 'project', 'topology')
  flags.DEFINE_string('cluster', None, 'Name of the GKE cluster.')
  flags.DEFINE_bool('spot', False, 'Spot capacity, which can be taken away.')
  flags.DEFINE_string('reservation', None, 'Name of your reservation.')
  flags.DEFINE_string('image', None, 'Name of the container image.')
  flags.DEFINE_string('bucket', None, 'Bucket that pods see as /bucket.')
  flags.DEFINE_string(
    'service_account',
    'default',
    'Kubernetes service account with the roles Storage Object Admin and'
    ' Storage Legacy Bucket Reader on the bucket.',
  )
  flags.DEFINE_integer(
    'restarts', 20, 'Restarts after which the run fails.', lower_bound=0
  )
  flags.DEFINE_enum(
    'via', 'kubectl', ['kubectl', 'xpk'], 'Program that submits the run.'
  )


def main(argv: Sequence[str]) -> int:
  """Runs the commands of --action, or prints them with --dry_run."""
  options = flags.FLAGS
  action = commands.check_action(options.action, list(ACTIONS), argv[1:])
  return commands.run(ACTIONS[action](argv[1:]), options.dry_run)


if __name__ == '__main__':
  define_flags()
  cli.run(main, arguments=True)
