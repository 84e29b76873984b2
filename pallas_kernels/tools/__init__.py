"""What compilers make of the kernels: schedules, cycles, budgets."""
