"""Pages that show a run, a data set or storyboards."""
