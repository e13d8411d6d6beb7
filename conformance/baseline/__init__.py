"""Recordings of a selector over the whole grid: the file, how one is made, what changed between two."""
