"""launch/xla_flags.py: precedence, and acceptance by compilers."""

import jax
import pytest

from launch import xla_flags


def test_flags_come_before_the_users_flags():
  ours = xla_flags.environment('v5p', {})
  assert list(ours) == [xla_flags.TPU]
  users = {xla_flags.TPU: '--mine=1', 'XLA_PYTHON_CLIENT_MEM_FRACTION': '.5'}
  assert xla_flags.environment('v5p', users) == {
    xla_flags.TPU: ours[xla_flags.TPU] + ' --mine=1'
  }
  gpu = xla_flags.environment('gpu', users)
  assert gpu['XLA_PYTHON_CLIENT_MEM_FRACTION'] == '.5'
  assert gpu[xla_flags.GPU].startswith('--xla_gpu_')


def test_compiler_options_omit_flags_of_the_environment():
  options = xla_flags.compiler_options('v5p')
  assert options['xla_tpu_enable_async_all_to_all'] is True
  for name in (
    'xla_tpu_enable_async_all_to_all',
    'xla_tpu_enable_async_collective_fusion_fuse_all_gather',
  ):
    users = {xla_flags.TPU: f'--xla_other=1 --{name}=false'}
    assert xla_flags.compiler_options('v5p', users) == {
      k: v for k, v in options.items() if k != name
    }
  assert all(
    name.startswith('xla_gpu') for name in xla_flags.compiler_options('gpu', {})
  )


@pytest.mark.parametrize('kind', xla_flags.FLAGS)
def test_compilers_accept_the_flags(kind, monkeypatch):
  if kind != 'gpu':
    pytest.importorskip('libtpu', reason='pip install "jax[tpu]"')
  assert xla_flags.compiler_error(kind) is None
  wrong = xla_flags.XlaFlag(
    xla_flags.GPU if kind == 'gpu' else xla_flags.TPU, '--xla_none=true', ''
  )
  monkeypatch.setitem(xla_flags.FLAGS, kind, (wrong,))
  assert 'xla_none' in xla_flags.compiler_error(kind)
  assert jax.default_backend() == 'cpu'
