"""Known faults that tests must notice: see `tests.faults.__main__`."""
