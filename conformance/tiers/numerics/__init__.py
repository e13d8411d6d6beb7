"""The numerics tier: does a backend compute attention? Named cases, judged by a float64 oracle."""
