"""Test-time training in large chunks: see `large_chunk_ttt.api`."""
