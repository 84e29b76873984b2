"""Encoders: captions and pixels become the arrays that networks read."""
