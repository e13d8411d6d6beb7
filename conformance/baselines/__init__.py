"""Recordings of upstream vLLM releases; tools/record_baselines.py makes them."""
