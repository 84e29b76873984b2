"""Tools that compile the kernels without a chip: schedules, cycles, budgets."""
