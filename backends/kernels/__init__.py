"""Triton and HIP kernels, one op a file."""
