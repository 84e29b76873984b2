"""Diffusion: noise schedule, loss, guidance schedules and samplers."""
