"""The state of a run, saved and restored as one."""
