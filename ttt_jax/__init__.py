"""One-minute video generation with test-time training, and Tune-A-Video.

Public names live in the submodules (`ttt_jax.pipeline`, `ttt_jax.geometry`,
`ttt_jax.storyboard`, ...); importing this package imports nothing heavy.
"""

__version__ = '0.1.0'
