"""A record in words, for every format alike. Pure functions of the report's plain data.

conformance/report/schema.py says what a record holds. What came from a file of an older or newer version may
lack or add fields of the request, so those are not relied on.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.naming import Named
from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report.schema import column, sort_key
from pytest_rocm_attn.errors import RequestError
from pytest_rocm_attn.gpu import known_gpus
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_rocm_attn.conformance.report.schema import CauseEntry, Record


def gpu_words(record: Record) -> str:
    """Return a record's GPU and the state of AMD's aiter on it; "" if it has none."""
    gpu = record["gpu"]
    return f"{gpu['gfx']}, aiter {gpu['aiter']}" if gpu else ""


def columns_of(records: Iterable[Record]) -> list[str]:
    """Return the matrix's columns: the known GPUs in their table's order, then any others."""
    found = {column(record) for record in records}
    known = [gfx for gfx in known_gpus() if gfx in found]
    return known + sorted(found - set(known))


def in_order(records: Iterable[Record]) -> list[Record]:
    """Return records in the order in which reports show them, whatever order they ran in."""
    by_key = sorted(records, key=sort_key)
    columns = {name: number for number, name in enumerate(columns_of(by_key))}
    return sorted(by_key, key=lambda r: (r["tier"], r["id"], columns[column(r)]))


def names_of(records: Iterable[Record]) -> list[str]:
    """Return items' ids, each once, with the columns that they stand in: "plain[gfx942, gfx950]"."""
    found: dict[str, list[str]] = {}
    for record in records:
        found.setdefault(record["id"], []).append(column(record))
    return [f"{name}[{', '.join(dict.fromkeys(columns))}]" for name, columns in found.items()]


NO_VARIABLES = "no variables"  # in place of an environment that sets none


def flags_words(record: Record) -> str:
    """Return a record's environment as a shell takes it; "" if it is not about one."""
    if record["env"] is None:
        return ""
    return environment_words(record["env"])


def environment_words(environ: Mapping[str, str]) -> str:
    """Return an environment as a shell takes it."""
    return " ".join(f"{n}={shlex.quote(text)}" for n, text in environ.items()) or NO_VARIABLES


def named_words(record: Record) -> str:
    """Return what the user names in a record's question, besides variables; "" for nothing."""
    named = record["named"]
    if named is None:
        return ""
    return str(Named(**named | {"per_kind": tuple(map(tuple, named["per_kind"]))}))


def request_words(record: Record) -> str:
    """Return what a record's request differs in from a plain one; "" if it is not about one."""
    if record["request"] is None:
        return ""
    fields = _departures(record["request"])
    return ", ".join(f"{name}={_value(value)}" for name, value in fields.items()) or "a plain layer"


def departures(record: Record) -> int:
    """Return how many fields of a record's request differ from the defaults."""
    return len(_departures(record["request"] or {}))


def _departures(request: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return Request(**request).non_default()
    except (TypeError, RequestError):
        return request  # written by another version of this tool: its fields are shown as they are


FAMILIES = ("ordinary", "MLA", "sparse MLA", "sinks", "sliding window", "fp8 KV cache")  # in order


def family(record: Record) -> str:
    """Return which family of requests a record belongs to; "" if it is not about one."""
    request = record["request"]
    if request is None:
        return ""
    if request.get("use_sparse"):
        return "sparse MLA"
    if request.get("use_mla"):
        return "MLA"
    if (attn_type := request.get("attn_type", "decoder")) != "decoder":
        return str(attn_type).replace("_", " ")
    if request.get("has_sink"):
        return "sinks"
    if request.get("sliding_window") is not None:
        return "sliding window"
    if str(request.get("kv_cache_dtype", "auto")).startswith("fp8"):
        return "fp8 KV cache"
    return "ordinary"


def expected_words(record: Record) -> str:
    """Return what a record expects."""
    return str(record["expect"].get("words", ""))


def got_words(record: Record) -> str:
    """Return a record's outcome in words."""
    return str(record["outcome"].get("words", ""))


def facts_of(record: Record) -> list[tuple[str, str]]:
    """Return what a reader must know of an item, as (label, text), without what is peculiar to it."""
    evidence = "" if record["evidence"] in ("pure", "mock") else record["evidence"]
    expected, got = expected_words(record), got_words(record)
    return [
        (label, text)
        for label, text in (
            ("flags", flags_words(record)),
            ("GPU", gpu_words(record)),
            ("request", request_words(record)),
            ("expected", expected),
            ("got", got),
            ("message", "" if expected and got else record["message"]),
            ("wrote to the environment", ", ".join(record["environment_written"])),
            ("source", record["source"]),
            ("evidence", evidence),
            ("again", record["again"]),
        )
        if text
    ]


def count_words(cause: CauseEntry) -> str:
    """Return how many items or cells a cause has, and on how many GPUs."""
    unit = f"{cause['count']:,} {cause['unit']}{'' if cause['count'] == 1 else 's'}"
    if len(cause["totals"]) > 1:
        unit += f": {tally(Counter(cause['totals']))}"
    gpus = cause["gpus"]
    return f"{unit}, {len(gpus)} GPUs" if len(gpus) > 1 else unit


def cause_lines(cause: CauseEntry) -> list[tuple[str, str]]:
    """Return what follows a cause's sentence, as (label, text): three lines, one if it is shown only.

    where: the plainest example. why: what was promised, and its source. show: the command.
    """
    why = f"{cause['promise']} ({cause['source']})" if cause["source"] else cause["promise"]
    lines = [("where", cause["smallest"]), ("why", why), ("show", cause["again"])]
    shown = lines if Verdict(cause["verdict"]).fails else lines[2:]
    return [(label, text) for label, text in shown if text]


def families_of(records: Iterable[Record]) -> list[tuple[str, Counter[str]]]:
    """Return how many items have which verdict, by family of requests; by tier if there is none."""
    tiers = {record["tier"] for record in records}
    found: dict[str, Counter[str]] = {}
    for record in in_order(records):
        kind = family(record)
        several = len(tiers) > 1 or not kind
        name = ", ".join(filter(None, (record["tier"] if several else "", kind)))
        found.setdefault(name, Counter())[record["verdict"]] += 1
    return list(found.items())


def tally(counts: Counter[str]) -> str:
    """Return how many have which verdict, in words: those that pass first."""
    verdicts = (Verdict.PASS, *(verdict for verdict in Verdict if verdict is not Verdict.PASS))
    return ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in verdicts if counts[verdict])


def details_words(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is peculiar to a tier as (label, text); its findings are not among them."""
    return [
        (name.replace("_", " "), plain(value))
        for name, value in details.items()
        if name not in ("findings", "table") and value not in (None, "", [], {})
    ]


def findings_of(record: Record) -> list[dict[str, Any]]:
    """Return the conditions under which a slice of cells differs, as the record lists them."""
    found = record["details"].get("findings") or []
    return [finding for finding in found if isinstance(finding, dict)]


def finding_words(finding: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """Return where the cells of a finding are, and the rest as (label, text).

    Expected and got stand at the front, the command at the end; what the words of another field
    say already is left out.
    """
    told = {
        name: value
        for name, value in finding.items()
        if value not in (None, "", [], {}, False) and name not in _FOR_PROGRAMS
    }
    where = told.pop("where", told.get("condition") or "everywhere")
    told.pop("condition", None)
    if "smallest_words" in told:
        told["smallest"] = told.pop("smallest_words")
    again = told.pop("again", "")
    first = [(name, told.pop(name)) for name in ("cells", "expected", "got") if name in told]
    facts = [*first, *told.items(), *([("again", again)] if again else [])]
    labelled = [(name.replace("_", " "), plain(value)) for name, value in facts]
    return plain(where), [(name, "yes" if text == "true" else text) for name, text in labelled]


# Of a finding: what "where" says in words, and what only sorting needs.
_FOR_PROGRAMS = ("theme", "limits", "given", "named", "distance")  # the grid's of older reports


def findings_alike(record: Record) -> str:
    """Return a record's findings without the cells that show them: equal if GPUs share a story."""
    alike = [
        {k: v for k, v in finding.items() if k not in ("smallest", "smallest_words", "again")}
        for finding in findings_of(record)
    ]
    return json.dumps(alike, sort_keys=True)


def summaries_of(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the summaries of whole tiers, as the report has it; none in an older report."""
    found: Sequence[Mapping[str, Any]] = report.get("summaries") or ()
    return [summary for summary in found if summary["told"]]


def plain(value: Any) -> str:
    """Return any JSON value in words: nested values on one line, text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        if all(not isinstance(inner, dict | list) for inner in value.values()):
            return ", ".join(f"{name}={_value(inner)}" for name, inner in value.items())
    elif isinstance(value, list):
        if all(not isinstance(inner, dict | list) for inner in value):
            return ", ".join(map(plain, value))
    elif isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return json.dumps(value, ensure_ascii=False)


def _value(value: Any) -> str:
    """Return a value as in name=value."""
    return repr(value) if isinstance(value, str | bool | float) or value is None else plain(value)


def subject_words(report: Mapping[str, Any]) -> str:
    """Return what was tested: the selector, and the distribution it comes from."""
    selector = report.get("selector") or {}
    name = str(selector.get("name") or "unknown selector")
    package = " ".join(str(selector[k]) for k in ("distribution", "version") if selector.get(k))
    commit = f"commit {str(selector['commit'])[:12]}" if selector.get("commit") else ""
    origin = [part for part in (package, commit, str(selector.get("date") or "")) if part]
    return f"{name} ({', '.join(origin)})" if origin else name


# What kernels' results rest on: docs/numerics.md.
KERNEL_EVIDENCE = {
    "oracle": "mathematics",
    "interpreter": "Triton's interpreter on the CPU",
    "launch": "compilation for the GPU, not execution",
    "source-emulated": "the source of AMD kernels run on a CPU, lane by lane",
    "emulated": "AMD machine code executed on a CPU",
    "cuda": "execution on an NVIDIA GPU",
    "rocm": "execution on the AMD GPU itself",
}


def host_words(report: Mapping[str, Any]) -> str:
    """Return on which evidence a report rests: that of its selections, then that of its kernels."""
    host = report.get("host") or {}
    found = {row["evidence"] for row in report["rows"]}
    kernels = [text for kind, text in KERNEL_EVIDENCE.items() if kind in found]
    parts = [f"kernels: {', '.join(kernels)}"] if kernels else []
    if not kernels or found - set(KERNEL_EVIDENCE):
        kind = {
            "mock": "on the CPU under a mocked ROCm platform; no AMD GPU was used",
            "real": f"on a real AMD GPU, unmocked: {host.get('machine')}",
            "pure": "a pure function on the CPU, no platform involved",
            "none": "no AMD GPU was there",
        }.get(str(host.get("kind")), str(host.get("kind") or "unknown"))
        parts.insert(0, kind)
    if host.get("python"):
        parts.append(f"Python {host['python']}")
    return "; ".join(parts)


def device_words(report: Mapping[str, Any]) -> list[str]:
    """Return each device that kernels ran on, and the libraries that ran them."""
    found = (report.get("host") or {}).get("devices") or []
    return [_device(device) for device in found if isinstance(device, dict)]


def _device(device: Mapping[str, Any]) -> str:
    name, arch = device.get("name", "unknown"), device.get("arch")
    rest = [f"{key} {value}" for key, value in device.items() if key not in ("name", "arch")]
    return ", ".join([f"{name} ({arch})" if arch else str(name), *rest])


def compared_with_upstream(report: Mapping[str, Any]) -> list[str]:
    """Return how a fork differs from its upstream release, a line each; none in an older report."""
    found = (report.get("contract") or {}).get("upstream") or {}
    return [str(line) for line in found.get("told") or ()]


def headline(report: Mapping[str, Any]) -> str:
    """Return the result in one line: how many items were selected, and how many had each result."""
    selected = int(report["selected"])
    counts = Counter(row["verdict"] for row in report["rows"])
    parts = [tally(counts)] if counts else []
    others = Counter(_kind(entry) for entry in report.get("declined") or ())
    others["not run"] = _not_run(report)
    kinds = ("declined", "skipped", "not run")
    parts += [f"{others[kind]:,} {kind}" for kind in kinds if others[kind]]
    if not selected:
        return "no item was selected"
    return f"{selected:,} item{'' if selected == 1 else 's'}: {', '.join(parts)}"


def is_good(report: Mapping[str, Any]) -> bool:
    """Whether items were judged, none of them failed, and none was left out by the end of the run."""
    rows: Sequence[Record] = report["rows"]
    failed = any(Verdict(row["verdict"]).fails for row in rows)
    return bool(rows) and not failed and not _not_run(report)


def without_verdict(report: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Return the items without a verdict, grouped by cause.

    Returns: for each cause "declined", "skipped" or "not run", by whom and why, and the items' names.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for entry in report.get("declined") or ():
        backend, gfx = entry["backend"], entry.get("gfx")
        why = f"{backend}: {entry['reason']}" if backend else str(entry["reason"])
        name = f"{entry['tier']}::{entry['id']}" + (f"[{gfx}]" if gfx else "")
        found.setdefault((_kind(entry), why), []).append(name)
    listed = [(kind, why, names) for (kind, why), names in sorted(found.items())]
    if _not_run(report):
        why = "the run ended before them"
        listed.append(("not run", why, list(report.get("not_run") or ())))
    return listed


def _kind(entry: Mapping[str, Any]) -> str:
    return "declined" if entry["backend"] else "skipped"


def _not_run(report: Mapping[str, Any]) -> int:
    # As a number: an older report does not list them.
    return int(report["selected"]) - len(report["rows"]) - len(report.get("declined") or ())


def visible(text: str) -> str:
    """Return text with every character that is not printable made visible, except newlines."""
    if text.isprintable():
        return text
    return "".join(
        character if character == "\n" or character.isprintable() else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: str, limit: int = 2_000) -> str:
    """Return text on one line, of at most about limit characters, with every character visible."""
    return re.sub(r"\s*\n\s*", " / ", visible(cut(text, limit))).strip()


def cut(text: str, limit: int) -> str:
    """Return text of at most about limit characters, saying how much there was."""
    return text if len(text) <= limit else f"{text[:limit]}... [cut, {len(text):,} characters]"
