"""``rocm-attn export``: writes a contract and the descriptions of servers as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.promise import contract, exported, servers_file, upstream
from pytest_rocm_attn.conformance.report import whole_file
from pytest_rocm_attn.errors import RocmAttnError

if TYPE_CHECKING:
    import argparse


class ExportError(RocmAttnError, ValueError):
    """What is asked for cannot be exported, or not written; says which."""


def run(arguments: argparse.Namespace) -> str:
    """Return the text to print: the JSON, or what was written to the file that the arguments name.

    Raises:
        ContractError, ServersError: a file cannot be read.
        ExportError: the contract has no releases, or the file cannot be written.
    """
    found = contract.load(arguments.contract)
    if arguments.release is not None:
        if not found.by_age:
            raise ExportError(
                f"--release {arguments.release}: the rows of {found.id} hold for no release in"
                " particular; leave --release out"
            )
        try:
            found = found.at(upstream.given(arguments.release))
        except ValueError as error:
            raise ExportError(f"--release: {error}") from None
    data = exported.export(found, servers_file.described(arguments.servers))
    text = exported.encoded(data)
    if arguments.output is None:
        return text.decode().rstrip("\n")
    try:
        whole_file.write(arguments.output, text)
    except OSError as error:
        raise ExportError(
            f"--output {arguments.output}: cannot be written ({error.strerror}); choose another place"
        ) from None
    counts = [
        f"{len(data.rows)} rows",
        f"{len(data.capabilities)} capabilities",
        f"{len(data.defects)} known defects",
        f"{len(data.servers)} servers",
    ]
    return f"{arguments.output}: {', '.join(counts)}"
