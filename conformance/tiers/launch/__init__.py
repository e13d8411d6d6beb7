"""The launch tier: do a backend's kernels fit each GPU? Compiled for the target, never run."""
