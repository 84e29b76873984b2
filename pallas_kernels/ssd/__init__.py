"""State space duality, the recurrence of Mamba 2: see `ssd.api`."""
