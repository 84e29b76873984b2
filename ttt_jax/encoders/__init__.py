"""Captions and pixels to the arrays that the networks read."""
