"""The grid: every flag, explicit choice, GPU and state of aiter, with a designed set of requests."""
