"""HTML pages of one file: building blocks, charts and embedded media."""
