"""Capabilities: what backends declare, what the contract promises of them, and whether they build.

``construct`` and ``declarations`` run in the worker with the fork; the rest runs in pytest's process.
"""
