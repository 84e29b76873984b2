"""Scores of sampled and edited videos."""
