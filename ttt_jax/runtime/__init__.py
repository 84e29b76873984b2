"""The ground floor: commands, paths, buckets, processes and files."""
