"""Demonstrations; not part of the installed library."""
