"""Pixels in and out: video files, resizing, contact sheets."""
