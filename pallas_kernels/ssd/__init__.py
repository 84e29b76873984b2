"""The recurrence of Mamba 2 (state space duality): see `ssd.api`."""
