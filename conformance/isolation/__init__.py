"""The driving side of isolation: questions in, observations out, from worker processes.

The package worker says which processes there are. A Pool runs a few lanes (threads); each lane works
on one platform at a time, so that a platform's selector is imported once, and asks all questions of
one environment in one forked process. A crash, a hang or a signal is the outcome of the question
that caused it; the questions after it go to a fresh process.
"""

from pytest_rocm_attn.conformance.isolation.asking import Bulk, Interview
from pytest_rocm_attn.conformance.isolation.pool import Pool
from pytest_rocm_attn.conformance.isolation.processes import WorkerError
from pytest_rocm_attn.conformance.isolation.question import Observation, Question, Subject, probing

__all__ = [
    "Bulk",
    "Interview",
    "Observation",
    "Pool",
    "Question",
    "Subject",
    "WorkerError",
    "probing",
]
