"""One minute of video from three short clips."""
