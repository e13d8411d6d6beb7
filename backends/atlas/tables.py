"""Policies as plain data: what the page's own selector (page/select.js) reads.

Everything is taken from the policies as they stand: their texts, their order, and their conditions as
decision trees. Equal texts, trees and limits are written once and referred to by number.
"""

from __future__ import annotations

import string
from dataclasses import fields
from typing import Any

from pytest_rocm_attn.backends.atlas.conditions import GPU_FACTS, Condition, Tree, tree
from pytest_rocm_attn.backends.capabilities import Limit, Limits
from pytest_rocm_attn.backends.policy import Branch, GivesWay, Policy, Predicate, Rule
from pytest_rocm_attn.backends.releases import RELEASES, policy_of
from pytest_rocm_attn.citations import linked
from pytest_rocm_attn.errors import nearest
from pytest_rocm_attn.flags import ATTENTION_BACKEND, EXPLICIT, Kind, variable
from pytest_rocm_attn.gpu import Aiter, Gpu, known_gpus, target_facts
from pytest_rocm_attn.registry import EVERY_NAME, ROCM_BACKENDS
from pytest_rocm_attn.request import ATTN_TYPES, DTYPES, KV_CACHE_DTYPES, Request

MLA_DISABLE = "VLLM_MLA_DISABLE"  # `rocm-attn explain` reads it, no policy does
EVERY = ("pr-26980", *RELEASES)


def tables(releases: tuple[str, ...] = EVERY) -> dict[str, Any]:
    """Return what the page asks and how it answers, as data for JSON.

    Args:
        releases: those that may be chosen, oldest first.

    Raises:
        UnknownConditionError: a condition of a policy cannot be followed.
        ValueError: a policy has a text or a variable that page/select.js cannot handle.
    """
    pool = _Pool()
    policies = {release: policy_of(release) for release in releases}
    written = {release: pool.policy(policy) for release, policy in policies.items()}
    read = dict.fromkeys(name for policy in policies.values() for name in policy.reads)
    return {
        "newest": releases[-1],
        "policies": written,
        "gpus": {gfx: _gpu(gfx) for gfx in known_gpus()},
        "variables": {name: _variable(name) for name in (*read, MLA_DISABLE)},
        "fields": {field.name: _field(field.name, field.default) for field in fields(Request)},
        "choices": {
            "dtype": DTYPES,
            "kv_cache_dtype": KV_CACHE_DTYPES,
            "attn_type": ATTN_TYPES,
            "run_kv_cache_dtype": KV_CACHE_DTYPES,
            "aiter": [state.value for state in Aiter],
        },
        "backends": _backends(policies),
        "strings": list(pool.strings),
        "atoms": list(pool.atoms),
        "nodes": list(pool.nodes.values()),
        "limits": list(pool.limits),
        "names": list(pool.names),
        "nearest": [_nearest(names) for names in pool.names],
    }


class _Pool:
    """What several policies share; each thing once."""

    def __init__(self) -> None:
        self.strings: dict[str, int] = {}
        self.atoms: dict[tuple[str | int, ...], int] = {}
        self.nodes: dict[Tree, tuple[Any, ...]] = {}
        self.limits: dict[tuple[int, ...], int] = {}
        self.names: dict[tuple[str, ...], int] = {}
        self._numbers: dict[Tree, int] = {}
        self._trees: dict[Any, Tree] = {}

    def text(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def source(self, text: str) -> int:
        """Return the number of a source with its citations as addresses."""
        return self.text(linked(text))

    def condition(self, condition: Condition) -> int:
        """Return the number of a condition's tree: 0 never, 1 always, 2 the first node."""
        return self._node(tree(condition, self._trees))

    def _node(self, tree: Tree) -> int:
        if isinstance(tree, bool):
            return int(tree)
        if tree not in self._numbers:
            atom, branches = tree
            below = [(_key(value), self._node(branch)) for value, branch in branches]
            children = [child for _, child in below]
            default = max(dict.fromkeys(children), key=children.count)
            others = {value: child for value, child in below if child != default}
            number = self.atoms.setdefault(atom, len(self.atoms))
            self.nodes[tree] = (number, default, others)
            self._numbers[tree] = len(self.nodes) + 1
        return self._numbers[tree]

    def limit(self, limit: Limit) -> int:
        for literal, field, form, _ in string.Formatter().parse(limit.beyond):
            if form or set(literal) & set("{}") or (field or "gpu.").split(".")[0] not in _FILLED:
                raise ValueError(f"{limit.rule}: page/select.js cannot fill in {limit.beyond!r}")
        row = (
            self.text(limit.rule),
            self.condition(limit.holds),
            self.text(limit.within),
            self.text(limit.beyond),
            self.text(limit.remedy),
            self.source(limit.source),
            int(limit.quiet),
        )
        return self.limits.setdefault(row, len(self.limits))

    def _limits(self, limits: Limits) -> list[int]:
        return [self.limit(limit) for limit in limits]

    def policy(self, policy: Policy) -> dict[str, Any]:
        return {
            "name": policy.name,
            "branches": [self.branch(branch) for branch in policy.branches],
            "limits": {name: self._limits(limits) for name, limits in policy.limits.items()},
            "class_paths": {
                name: self.text(path)
                for name, path in policy.class_paths.items()
                if name in policy.limits
            },
            "sets": policy.sets,
            "when_named": {n: self._limits(limits) for n, limits in policy.when_named.items()},
            "gives_way": policy.gives_way and self.gives_way(policy.gives_way),
            "ignored": dict(policy.ignored),
            "reads": policy.reads,
        }

    def gives_way(self, gives_way: GivesWay) -> dict[str, Any]:
        when = self.condition(gives_way.when)
        return {"when": when, "why": gives_way.why, "alone": gives_way.alone}

    def branch(self, branch: Branch) -> dict[str, Any]:
        return {
            "name": branch.name,
            "takes": self.condition(branch.takes),
            "yes": branch.yes,
            "no": branch.no,
            "named": branch.named,
            "not_named": branch.not_named,
            "named_source": self.source(branch.named_source),
            "rules": [self.rule(rule) for rule in branch.rules],
            "source": self.source(branch.source),
            "named_by": branch.named_by,
            "names": self.names.setdefault(branch.names, len(self.names)),
            "tries_next": branch.tries_next,
            "unnamed": branch.automatic.reason,
            "refuses": branch.refuses,
        }

    def rule(self, rule: Rule) -> dict[str, Any]:
        return {
            "name": rule.name,
            "backend": rule.backend,
            "when": [self.predicate(predicate) for predicate in rule.when],
            "source": self.source(rule.source),
            "otherwise": rule.otherwise,
            "applies": rule.applies.reason,
        }

    def predicate(self, predicate: Predicate) -> dict[str, Any]:
        holds = self.condition(predicate.holds)
        return {"holds": holds, "no": predicate.no, "variable": predicate.variable}


_FILLED = ("request", "gpu")


def _key(value: Any) -> str:
    """Return what JavaScript's String() makes of a value."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _gpu(gfx: str) -> dict[str, Any]:
    gpu, facts = Gpu(gfx), target_facts(gfx)
    products = [product["name"] for product in facts["product"]]
    return {name: getattr(gpu, name) for name in (*GPU_FACTS, "family")} | {"products": products}


def _variable(name: str) -> dict[str, Any]:
    declared = variable(name)
    kind = "name" if name in (EXPLICIT, ATTENTION_BACKEND) else "switch"
    if kind == "switch" and declared.kind not in (Kind.BOOL, Kind.INT_BOOL):
        raise ValueError(f"{name}: page/select.js knows switches and what names a backend")
    names = declared.choices if name == EXPLICIT else ("auto", *EVERY_NAME)
    return {
        "kind": kind,
        "default": declared.default,
        "effect": declared.effect,
        "choices": names if kind == "name" else (),
    }


def _field(name: str, default: Any) -> dict[str, Any]:
    return {"type": str(Request.__dataclass_fields__[name].type), "default": default}


def _backends(policies: dict[str, Policy]) -> list[str]:
    """Return the backends that a release chooses by itself, or that run on ROCm."""
    chosen = (
        rule.backend for policy in policies.values() for b in policy.branches for rule in b.rules
    )
    return list(dict.fromkeys([*ROCM_BACKENDS, *chosen]))


def _nearest(names: tuple[str, ...]) -> dict[str, str]:
    return {name: nearest(name, names) for name in EVERY_NAME if name not in names}
