"""Compiles a step for a topology and reads its memory and time."""
