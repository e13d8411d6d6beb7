"""Kernels whose code is not there: what they are called with, and what each of them needs."""
