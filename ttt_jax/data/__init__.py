"""From video files to batches of latents."""
