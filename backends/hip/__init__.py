"""Paged decode attention in HIP C++, for ROCM_ATTN: the sources, as package data."""
