"""A procedural toy world: one coloured shape over a coloured background."""
