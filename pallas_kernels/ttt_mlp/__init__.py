"""TTT-MLP: the hidden state is a two-layer MLP."""
