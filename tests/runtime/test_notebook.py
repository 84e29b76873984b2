"""The first cell of a notebook."""

import pathlib
import sys

import jax
import pytest

import ttt_jax
from ttt_jax.runtime import notebook

GIB = 2**30


def test_prints_devices_and_memory(monkeypatch, capsys):
  monkeypatch.setattr(notebook, 'free_memory', lambda: 3 * GIB)
  notebook.start(memory_gib=2)
  versions, devices = capsys.readouterr().out.splitlines()
  assert versions == f'ttt_jax {ttt_jax.__version__} with JAX {jax.__version__}'
  assert devices.startswith('cpu: ') and devices.endswith('3.0 GiB free')


def test_too_little_memory_is_one_line(monkeypatch):
  monkeypatch.setattr(notebook, 'free_memory', lambda: GIB)
  with pytest.raises(notebook.SetupError) as failed:
    notebook.start(memory_gib=2.5)
  # IPython shows what this method returns in place of the traceback.
  (line,) = failed.value._render_traceback_()
  assert line == (
    'error: this runtime has 1.0 GiB of memory free; the notebook needs'
    ' 2.5 GiB: choose a larger runtime'
  )


def test_memory_of_an_accelerator(monkeypatch, capsys):
  class Device:
    platform, device_kind = 'tpu', 'TPU v5 lite'

    def memory_stats(self):
      return dict(bytes_limit=16 * GIB)

  monkeypatch.setattr(jax, 'devices', lambda: [Device()] * 8)
  monkeypatch.setattr(jax, 'device_count', lambda: 8)
  notebook.start(memory_gib=16)
  line = capsys.readouterr().out.splitlines()[-1]
  assert line == 'TPU v5 lite: 8 devices, 16.0 GiB on each'


def test_a_limit_of_the_container_counts(monkeypatch, tmp_path):
  limit, usage = tmp_path / 'max', tmp_path / 'current'
  limit.write_text(str(5 * 2**20))
  usage.write_text(str(3 * 2**20))
  monkeypatch.setattr(notebook, '_CGROUPS', ((str(limit), str(usage)),))
  assert notebook.free_memory() == 2 * 2**20
  limit.write_text('max\n')
  assert notebook.free_memory() > 2 * 2**20


def test_a_clone_is_importable(monkeypatch, tmp_path):
  root = str(pathlib.Path(ttt_jax.__file__).resolve().parents[1])
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p != root])
  notebook.start(memory_gib=0, clone=True)
  assert sys.path[0] == root
  monkeypatch.setattr(ttt_jax, '__file__', str(tmp_path / 'ttt_jax/x.py'))
  with pytest.raises(notebook.SetupError, match='clone it and open'):
    notebook.start(memory_gib=0, clone=True)
