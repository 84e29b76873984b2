"""Checkpoints: the complete state of a training run, saved as one."""
