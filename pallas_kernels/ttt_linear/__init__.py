"""TTT-Linear: the hidden state is one affine map."""
