"""A procedural cartoon world: named characters who leave and return."""
