"""JobSets and workloads for Google Kubernetes Engine."""

import subprocess

import pytest
import yaml

from launch import cloud
from launch import commands
from launch import gke
from tests.launch.test_launchers import HOSTILE
from tests.launch.test_launchers import STAGES


def manifest(**changes):
  """Returns the JobSet as Kubernetes reads it."""
  values = dict(
    name='my-run',
    image='i:1',
    bucket='my-bucket',
    service_account='default',
    restarts=20,
  )
  values |= changes
  jobset = gke.jobset(
    values.pop('name'),
    cloud.find_slice('v5p:8x8x4'),
    [*STAGES, f'--config.data.videos={HOSTILE}'],
    **values,
  )
  return yaml.safe_load(yaml.safe_dump(jobset))


def test_jobset():
  found = manifest()
  assert found['metadata']['name'] == 'my-run'
  assert found['spec']['failurePolicy']['maxRestarts'] == 20
  [replicated] = found['spec']['replicatedJobs']
  job = replicated['template']['spec']
  assert job['parallelism'] == job['completions'] == 64
  pod = job['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5p-slice',
    'cloud.google.com/gke-tpu-topology': '4x8x8',
  }
  [container] = pod['containers']
  assert container['command'] == [
    'python',
    '-m',
    'launch.stages',
    '--chip=v5p',
    *STAGES,
    f'--config.data.videos={HOSTILE}',
  ]
  # A user's error ends the run; any other failure restarts it.
  [rule] = job['podFailurePolicy']['rules']
  assert rule['onExitCodes'] == dict(
    containerName=container['name'], operator='In', values=[2]
  )


def _keys(value):
  """Yields the keys of nested dictionaries and lists."""
  if isinstance(value, dict):
    for key, inner in value.items():
      yield key
      yield from _keys(inner)
  elif isinstance(value, list):
    for inner in value:
      yield from _keys(inner)


@pytest.mark.parametrize(
  'field', ['name', 'image', 'bucket', 'service_account']
)
def test_values_cannot_add_keys_to_a_jobset(field):
  assert list(_keys(manifest(**{field: HOSTILE}))) == list(_keys(manifest()))


def test_a_jobset_can_be_pasted_with_its_command(tmp_path):
  """A shell gives a program the text that it is given here."""
  text = yaml.safe_dump(manifest(), sort_keys=False)
  command = commands.Command(('cat', '-'), 'print', text)
  done = subprocess.run(
    ['bash', '-c', str(command)], capture_output=True, text=True, check=True
  )
  assert done.stdout == text and yaml.safe_load(text) == manifest()


def test_one_chip_is_one_machine():
  jobset = gke.jobset(
    'my-run',
    cloud.find_slice('v6e:1x1'),
    STAGES[:2],
    image='i',
    bucket='my-bucket',
    service_account='default',
    restarts=0,
  )
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  [container] = job['template']['spec']['containers']
  assert job['parallelism'] == 1
  assert container['resources'] == {'limits': {'google.com/tpu': 1}}


def test_a_jobsets_job_is_valid_in_kubernetes():
  validate = pytest.importorskip(
    'kubernetes_validate',
    reason='pip install kubernetes-validate (23 MB of schemas)',
  )
  job = dict(
    apiVersion='batch/v1',
    kind='Job',
    metadata=dict(name='my-run'),
    spec=manifest()['spec']['replicatedJobs'][0]['template']['spec'],
  )
  validate.validate(job, '1.37', strict=True)
  job['spec']['paralelism'] = 64
  with pytest.raises(validate.ValidationError):
    validate.validate(job, '1.37', strict=True)


def test_xpk_command():
  found = gke.xpk_workload(
    'my-run', cloud.find_slice('v6e:16x16'), STAGES, image='i:1', restarts=3
  )
  assert found == (
    'xpk',
    'workload',
    'create',
    '--workload=my-run',
    '--tpu-type=v6e-256',
    '--num-slices=1',
    '--docker-image=i:1',
    '--max-restarts=3',
    '--restart-on-exit-codes=75',
    '--termination-grace-period-seconds=600',
    f'--command=python -m launch.stages --chip=v6e {" ".join(STAGES)}',
  )
