"""The packages of the wheel; everything else is in pyproject.toml.

The recipes in configs/ become a folder inside of `ttt_jax`, where
`ttt_jax.runtime.shipped` finds them: nothing called `configs` may lie in the
environments of users.
"""

import setuptools

setuptools.setup(
  packages=[
    *setuptools.find_namespace_packages(
      include=['ttt_jax', 'ttt_jax.*', 'pallas_kernels', 'pallas_kernels.*']
    ),
    'ttt_jax.configs',
    'ttt_jax.configs.storyboards',
  ],
  package_dir={'ttt_jax.configs': 'configs'},
)
