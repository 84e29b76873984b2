"""A procedural world: one coloured shape over a coloured background."""
