"""The inner loop in portable XLA, shared by all ops."""
