"""Training of the small video autoencoder of the demonstrations."""
