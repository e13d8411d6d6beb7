"""Whole servers: what a fork makes of the models and flags that its users start it with."""
