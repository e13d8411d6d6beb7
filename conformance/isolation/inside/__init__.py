"""The process that a selector under test runs in, and the processes it forks.

Forks of vLLM read the environment when they are imported, cache what they selected and keep
class-level flags, so a process whose state is clean answers each question:

    base         imports what is heavy and neutral (torch), then forks
    platform     per GPU and aiter state: enters the mock, imports the selector, then forks
    questions    per environment: sets it, asks, answers, ends

A selector that is a pure function of its arguments (the reference) reads neither platform nor
environment: it needs no mock, and one process answers all.

If the system has no fork, one process does all three for one environment. The side that drives
all this is the package workers; both talk in JSON lines (channel.py).

A platform process tells which environment variables its imports read, with the values they saw. It
serves another environment as it is when those variables hold the same there, since the imports
would then have run the same. Else the adapter must be able to refresh, or a new process is made.
"""
