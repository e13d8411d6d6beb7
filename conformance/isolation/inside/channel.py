"""The worker's end of its conversation with the side that drives it."""

from __future__ import annotations

import contextlib
import os
from typing import IO, TYPE_CHECKING, Any, TypeVar

from pytest_rocm_attn.conformance.isolation import wire
from pytest_rocm_attn.conformance.isolation.inside.refusal import text_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

T = TypeVar("T")


class Channel:
    """Messages over a pair of binary streams, which only the process that made it may use.

    A selector may fork. Its child must neither answer in its parent's place nor hold the streams
    open, since their end is what tells that the parent has died.
    """

    def __init__(self, read: IO[bytes], write: IO[bytes]) -> None:
        self._read = read
        self._write = write
        self._process = os.getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._close)

    def _close(self) -> None:
        for stream in (self._read, self._write):
            with contextlib.suppress(OSError, ValueError):  # the parent's, whatever their state
                stream.close()

    def _end_a_child_of_the_selectors(self) -> None:
        if os.getpid() != self._process:
            os._exit(0)

    @classmethod
    def over(cls, connection: socket.socket) -> Channel:
        channel = cls(connection.makefile("rb"), connection.makefile("wb"))
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=connection.close)
        return channel

    def send(self, message: object) -> None:
        self._end_a_child_of_the_selectors()
        self._write.write(wire.encode(message))
        self._write.flush()

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Report what is raised in the block, which is our own code, to the other side."""
        try:
            yield
        except ConnectionError:
            raise  # the other side has gone
        except Exception as error:  # whatever it is, it goes on to the caller
            with contextlib.suppress(OSError, ValueError):  # a selector has closed the streams
                self.send(wire.Ours(f"{type(error).__name__}: {text_of(error)}"))
            raise

    def receive(self, kind: type[T] | Any) -> T | Any:
        """Return the next message, which is of a kind; None when the other side is gone."""
        self._end_a_child_of_the_selectors()
        line = self._read.readline()
        return wire.decode(line, kind) if line else None
