"""Neural networks, pure flax linen modules."""
