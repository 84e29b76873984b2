"""Compiles a step for a topology and estimates its memory and time."""
