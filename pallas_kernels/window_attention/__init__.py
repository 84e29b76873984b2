"""Softmax attention within windows, with norm and position of q and k."""
