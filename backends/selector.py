"""The reference selector: an interpreter over a policy.

Pure: what it knows of the machine is in its arguments, and it keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_rocm_attn.backends.capabilities import Limit
from pytest_rocm_attn.backends.policy import NAMED, PR_26980, Branch, Policy, Rule
from pytest_rocm_attn.backends.trace import DECISION, Selection, Step
from pytest_rocm_attn.errors import SelectionError
from pytest_rocm_attn.flags import Flags
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.registry import CLASS_PATHS
from pytest_rocm_attn.request import Request


def select(request: Request, flags: Flags, gpu: Gpu, policy: Policy = PR_26980) -> Selection:
    """Return the backend that serves request on gpu under flags, with the trace of the decision.

    The kind of the request decides which backends are candidates. An explicit choice is taken or
    refused, never replaced; without one, the first automatic rule that applies chooses. What was
    chosen must then be able to serve the request: no other backend is tried.

    Raises:
        SelectionError: the backend cannot be had, or cannot serve the request. The message names
            backend, limit, refused value, remedy and source; the error carries backend and trace.
    """
    trace: list[Step] = []
    branch = _branch(policy, request, trace)
    named = flags[NAMED] if branch.named else None
    if named is None:
        trace.append(branch.automatic)
        rule = _rule(branch, request, flags, gpu, trace)
        backend = rule.backend
    else:
        rule, backend = None, named
        trace.append(branch.explicit[named])
        if named not in branch.named:
            remedy = _set_name(branch.named)
            problem = f"{NAMED}={named}: {named} {branch.not_named}"
            raise _refusal(backend, problem, [remedy], branch.named_source, trace)
    beyond = [limit for limit in policy.limits[backend] if not limit.holds(request, gpu)]
    if not beyond:
        return Selection(backend, CLASS_PATHS[backend], (*trace, *policy.served[backend]))

    for limit in policy.limits[backend]:
        unmet = Step(limit.rule, "no", limit.refusal(request, gpu), limit.source)
        trace.append(unmet if limit in beyond else limit.met)
    how = f"named by {NAMED}" if rule is None else f"chosen by the rule {rule.name}"
    raise _refusal(
        backend,
        f"{backend} ({how}) {'; it '.join(limit.refusal(request, gpu) for limit in beyond)}",
        [
            *_within(beyond),
            *_other_names(branch, request, gpu, policy),
            *(_other_flags(rule, request, flags, gpu, policy) if rule else []),
        ],
        "; ".join(dict.fromkeys(limit.source for limit in beyond)),
        trace,
    )


def _branch(policy: Policy, request: Request, trace: list[Step]) -> Branch:
    for branch in policy.branches:
        if branch.takes(request):
            trace.append(branch.entered)
            return branch
        trace.append(branch.passed)
    raise AssertionError(f"policy {policy.name}: no branch takes {request}; the last must")


def _rule(branch: Branch, request: Request, flags: Flags, gpu: Gpu, trace: list[Step]) -> Rule:
    for rule in branch.rules:
        for holds, failed in rule.asks:
            if not holds(request, flags, gpu):
                trace.append(failed)
                break
        else:
            trace.append(rule.applies)
            return rule
    raise AssertionError(f"branch {branch.name}: no rule applies; the last must")


def unreachable(
    backend: str, request: Request, gpu: Gpu, policy: Policy, trace: tuple[Step, ...]
) -> SelectionError:
    """Return why no environment leads to a backend: its limits, not how it was asked for.

    Args:
        backend: a name that select() refuses for the request.
        request: what the layer needs.
        gpu: where.
        policy: the rules.
        trace: of that refusal.
    """
    branch = _branch(policy, request, [])
    if backend not in branch.named:
        problem, remedies, sources = branch.not_named, [], [branch.named_source]
    else:
        beyond = [limit for limit in policy.limits[backend] if not limit.holds(request, gpu)]
        problem = "; it ".join(limit.refusal(request, gpu) for limit in beyond)
        remedies, sources = _within(beyond), [limit.source for limit in beyond]
    return SelectionError(
        _message(f"{backend} {problem}", remedies, "; ".join(dict.fromkeys(sources))),
        backend=backend,
        trace=trace,
    )


def _within(beyond: list[Limit]) -> list[str]:
    """Return how to come within every limit, when there is a way for each."""
    remedies = [limit.remedy for limit in beyond]
    return [" and ".join(remedies)] if all(remedies) else []


def _other_names(branch: Branch, request: Request, gpu: Gpu, policy: Policy) -> list[str]:
    """Return which backends could be named instead and would serve the request."""
    serving = [
        name
        for name in branch.named
        if all(limit.holds(request, gpu) for limit in policy.limits[name])
    ]
    return [_set_name(serving)] if serving else []


def _other_flags(rule: Rule, request: Request, flags: Flags, gpu: Gpu, policy: Policy) -> list[str]:
    """Return which of the variables that made rule apply would, switched off, lead elsewhere."""
    ways = [rule.otherwise] if rule.otherwise else []
    for variable in (predicate.variable for predicate in rule.when if predicate.variable):
        try:
            instead = select(request, flags.but(variable, "0"), gpu, policy)
        except SelectionError:
            continue
        ways.append(f"set {variable}=0, which gives {instead.backend}")
    return ways


def _set_name(names: Sequence[str]) -> str:
    return f"set {NAMED} to {', '.join(names)}"


def _refusal(
    backend: str, problem: str, remedies: list[str], source: str, trace: list[Step]
) -> SelectionError:
    trace.append(Step(DECISION, "refused", problem, source))
    message = _message(problem, remedies, source)
    return SelectionError(message, backend=backend, trace=tuple(trace))


def _message(problem: str, remedies: list[str], source: str) -> str:
    remedy = f". Remedy: {'; or '.join(remedies)}" if remedies else ""
    return f"{problem}{remedy}. Source: {source}"
