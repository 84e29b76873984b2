"""Trains the small video autoencoder that the demonstrations use."""
