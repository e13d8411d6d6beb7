"""The reference selector: an interpreter over a policy.

Pure: what it knows of the machine is in its arguments, and it keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pytest_rocm_attn.backends.capabilities import Limit, Limits, unmet
from pytest_rocm_attn.backends.policy import PR_26980, Branch, Policy, Rule
from pytest_rocm_attn.backends.trace import DECISION, Selection, Step
from pytest_rocm_attn.errors import SelectionError, nearest
from pytest_rocm_attn.flags import Flags
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.registry import ROCM_BACKENDS
from pytest_rocm_attn.request import Request


def select(request: Request, flags: Flags, gpu: Gpu, policy: Policy | str = PR_26980) -> Selection:
    """Return the backend that serves request on gpu under flags, with the trace of the decision.

    The kind of the request decides which backends are candidates. An explicit choice is taken or
    refused, never replaced; without one, the first automatic rule that applies chooses. What was
    chosen must then be able to serve the request. The policies of releases from 0.18 on then ask the
    next rule; the others try no other backend.

    Args:
        request: what the layer needs.
        flags: variables, and options of the server.
        gpu: where.
        policy: the rules, or the release that has them, such as "0.33".

    Raises:
        SelectionError: the backend cannot be selected, or cannot serve the request. The message
            names backend, limit, refused value, remedy and source; the error carries backend and
            trace.
        UnknownReleaseError: there is no policy for that release.
    """
    if isinstance(policy, str):
        from pytest_rocm_attn.backends.releases import policy_of

        policy = policy_of(policy)
    trace: list[Step] = []
    for variable, name in policy.sets:
        if flags[variable] and name and not getattr(request, name):
            trace.append(Step(variable, "yes", f"{variable} is on, which sets {name}", policy.name))
            changed: dict[str, Any] = {name: True}
            request = replace(request, **changed)
    branch = _branch(policy, request, trace)
    by = named = None
    for by in branch.named_by:
        if (named := flags[by]) is not None:
            break
    if named is None or by is None:
        trace.append(branch.automatic)
        return _automatic(branch, request, flags, gpu, policy, trace)
    if (step := branch.explicit.get((by, named))) is None:
        raise _refusal(
            named,
            f"{by}={named}: {policy.name} has no backend of that name.{nearest(named, branch.names)}",
            [_set_name(branch, branch.named)],
            branch.named_source,
            trace,
        )
    if not branch.named:
        trace.append(branch.automatic)
        return _automatic(branch, request, flags, gpu, policy, trace)
    trace.append(step)
    if named not in branch.named:
        problem = f"{by}={named}: {named} {branch.not_named}"
        remedies = [_set_name(branch, branch.named)]
        raise _refusal(named, problem, remedies, branch.named_source, trace)
    limits = policy.limits[named]
    if policy.when_named:
        limits = (*limits, *policy.when_named.get(named, ()))
    beyond = unmet(limits, request, gpu)
    if not beyond:
        path = policy.class_paths[named]
        return Selection(named, path, (*trace, *policy.served[named]))
    if policy.gives_way is not None and policy.gives_way.applies(request, beyond):
        trace += _judged(limits, beyond, request, gpu)
        trace.append(Step("named-gives-way", "yes", policy.gives_way.why, branch.named_source))
        return _automatic(branch, request, flags, gpu, policy, trace)
    raise _beyond(named, beyond, None, branch, request, flags, gpu, policy, trace)


def _automatic(
    branch: Branch, request: Request, flags: Flags, gpu: Gpu, policy: Policy, trace: list[Step]
) -> Selection:
    """Return what the rules choose. Raises SelectionError if they refuse."""
    if branch.refuses:
        raise _refusal(None, branch.refuses, [], branch.source, trace)
    refused: dict[str, list[Limit]] = {}
    for rule in branch.rules:
        for holds, failed in rule.asks:
            if not holds(request, flags, gpu):
                trace.append(failed)
                break
        else:
            trace.append(rule.applies)
            backend = rule.backend
            beyond = unmet(policy.limits[backend], request, gpu)
            if not beyond:
                steps = (*trace, *policy.served[backend])
                return Selection(backend, policy.class_paths[backend], steps)
            if not branch.tries_next:
                raise _beyond(backend, beyond, rule, branch, request, flags, gpu, policy, trace)
            trace += [limit.unmet(request, gpu, backend) for limit in beyond]
            refused[backend] = beyond
    if not branch.tries_next:
        raise AssertionError(f"branch {branch.name}: no rule applies; the last must")
    limits = [limit for beyond in refused.values() for limit in beyond]
    raise _refusal(
        None,
        f"no backend of {policy.name} serves the request: "
        + "; ".join(
            f"{backend} {', and '.join(limit.refusal(request, gpu) for limit in beyond)}"
            for backend, beyond in refused.items()
        ),
        [
            *_within(limits if len(refused) == 1 else []),
            *_other_names(branch, request, gpu, policy),
            *_other_switches(branch, request, flags, gpu, policy),
        ],
        "; ".join(dict.fromkeys(limit.source for limit in limits)),
        trace,
    )


def _beyond(
    backend: str,
    beyond: list[Limit],
    rule: Rule | None,
    branch: Branch,
    request: Request,
    flags: Flags,
    gpu: Gpu,
    policy: Policy,
    trace: list[Step],
) -> SelectionError:
    """Return the refusal of a backend that was named, or that a rule chose."""
    trace += _judged(policy.limits[backend], beyond, request, gpu)
    naming = next((by for by in branch.named_by if flags[by] is not None), "")
    how = f"named by {naming}" if rule is None else f"chosen by the rule {rule.name}"
    return _refusal(
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


def _judged(limits: Limits, beyond: list[Limit], request: Request, gpu: Gpu) -> list[Step]:
    if beyond[-1].alone and beyond[-1] in limits:
        limits = limits[: limits.index(beyond[-1]) + 1]  # no other was asked
    return [
        limit.unmet(request, gpu) if limit in beyond else limit.met
        for limit in limits
        if limit in beyond or not limit.quiet
    ]


def branch_of(policy: Policy, request: Request) -> Branch:
    """Return the kind of a request, by a policy."""
    return _branch(policy, request, [])


def _branch(policy: Policy, request: Request, trace: list[Step]) -> Branch:
    for branch in policy.branches:
        if branch.takes(request):
            trace.append(branch.entered)
            return branch
        trace.append(branch.passed)
    raise AssertionError(f"policy {policy.name}: no branch takes {request}; the last must")


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
    branch = branch_of(policy, request)
    remedies: list[str]
    if branch.refuses:
        problem, remedies, sources = branch.refuses, [], [branch.source]
    elif backend not in branch.named:
        problem, remedies, sources = branch.not_named, [], [branch.named_source]
    else:
        beyond = unmet(policy.limits[backend], request, gpu)
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
    return [" and ".join(remedies)] if remedies and all(remedies) else []


def _other_names(branch: Branch, request: Request, gpu: Gpu, policy: Policy) -> list[str]:
    """Return which backends could be named instead and would serve the request.

    Not those of other platforms, which some releases take as well.
    """
    own = {*ROCM_BACKENDS, *(rule.backend for rule in branch.rules)}
    serving = [
        name
        for name in branch.named
        if name in own and all(limit.holds(request, gpu) for limit in policy.limits[name])
    ]
    return [_set_name(branch, serving)] if serving else []


def _other_switches(
    branch: Branch, request: Request, flags: Flags, gpu: Gpu, policy: Policy
) -> list[str]:
    """Return which variable that a rule reads, set otherwise, would give a backend."""
    read = (p.variable for rule in branch.rules for p in rule.when if p.variable)
    ways = []
    for name in dict.fromkeys(read):
        text = "0" if flags[name] else "1"
        changed = flags.but(name, text)
        for rule in branch.rules:
            if all(holds(request, changed, gpu) for holds, _ in rule.asks) and all(
                limit.holds(request, gpu) for limit in policy.limits[rule.backend]
            ):
                ways.append(f"set {name}={text}, which gives {rule.backend}")
                break
    return ways


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


def _set_name(branch: Branch, names: Sequence[str]) -> str:
    return f"set {branch.named_by[-1]} to {', '.join(names)}"


def _refusal(
    backend: str | None, problem: str, remedies: list[str], source: str, trace: list[Step]
) -> SelectionError:
    trace.append(Step(DECISION, "refused", problem, source))
    message = _message(problem, remedies, source)
    return SelectionError(message, backend=backend, trace=tuple(trace))


def _message(problem: str, remedies: list[str], source: str) -> str:
    remedy = f". Remedy: {'; or '.join(remedies)}" if remedies else ""
    return f"{problem}{remedy}. Source: {source}"
