"""The inverse of the selector: which environment leads to a backend."""

from __future__ import annotations

from itertools import combinations

from pytest_rocm_attn.backends.policy import PR_26980, Branch, Policy
from pytest_rocm_attn.backends.selector import branch_of, select, unreachable
from pytest_rocm_attn.errors import SelectionError
from pytest_rocm_attn.flags import Flags, variable
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.registry import check_name
from pytest_rocm_attn.request import Request


def how_to_get(
    backend: str, request: Request, gpu: Gpu, policy: Policy | str = PR_26980
) -> tuple[dict[str, str], ...]:
    """Return every smallest environment under which select() answers backend.

    Each is a mapping from variable, or option of the server, to text, checked by select(); smallest
    is by the number of variables set, so the one answer is {} if nothing needs to be set.

    Raises:
        UnknownBackendError: no backend has that name.
        SelectionError: no environment leads there; the message says why.
        UnknownReleaseError: there is no policy for that release.
    """
    if isinstance(policy, str):
        from pytest_rocm_attn.backends.releases import policy_of

        policy = policy_of(policy)
    branch = branch_of(policy, request)
    check_name(backend, branch.names)
    # What says more about the layer is not a way to a backend, though it may change the answer.
    layers = {variable for variable, _ in policy.sets}
    switches = [name for name in policy.reads if name not in layers]
    texts = {name: _other_than_default(name, backend, branch) for name in switches}
    # All of them at once is not a candidate: with a name, which is taken or refused, nothing else counts.
    for size in range(len(texts)):
        ways = tuple(
            {name: texts[name] for name in names}
            for names in combinations(texts, size)
            if _leads_to(backend, {name: texts[name] for name in names}, request, gpu, policy)
        )
        if ways:
            return ways
    # A choice that flags can make can be made by name, so the refusal of the name says why.
    try:
        instead = select(request, Flags({branch.named_by[-1]: backend}), gpu, policy)
    except SelectionError as error:
        raise unreachable(backend, request, gpu, policy, error.trace) from None
    source = next(step.source for step in instead.trace if step.rule == "named")
    raise SelectionError(
        f"no variable leads to {backend}: such a request always gets {instead.backend}"
        f". Source: {source}",
        backend=backend,
        trace=instead.trace,
    )


def _other_than_default(name: str, backend: str, branch: Branch) -> str:
    if name in branch.named_by:
        return backend
    return "0" if variable(name).default else "1"


def _leads_to(
    backend: str, environ: dict[str, str], request: Request, gpu: Gpu, policy: Policy
) -> bool:
    try:
        return select(request, Flags(environ), gpu, policy).backend == backend
    except SelectionError:
        return False
