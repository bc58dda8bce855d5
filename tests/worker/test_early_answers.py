"""A server that answers before it has all of the request, and closes: writing to it fails.

The event loop tells that and doesn't read any more; what the server had said waits in the kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pylb.worker.reasons import Reason
from tests.worker.server_line import Line
from tests.worker.stand_ins import POST

TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!"


class Sending(Line):
    """A codec that is sending a request."""

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.peer = socket.socketpair()
        self.ours.setblocking(False)
        self.transport.socket = self.ours
        self.codec.request(self.exchange, POST, b"half", False)


@pytest.fixture
def line() -> Iterator[Sending]:
    """With a socket behind its transport."""
    line = Sending()
    with line.ours, line.peer:
        yield line


def _broken(line: Sending, said: bytes) -> list[tuple[object, ...]]:
    line.peer.sendall(said)
    line.peer.close()
    line.codec.connection_lost(BrokenPipeError())
    return line.exchange.told


@pytest.mark.parametrize("size", [3, 150_000])
def test_the_answer_is_read(line: Sending, size: int) -> None:
    told = _broken(line, b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n%b" % (size, b"x" * size))
    assert told[0][:2] == ("response", 413)
    assert line.exchange.got("response") == b"x" * size
    assert "server_gone" not in line.exchange.words()
    assert not line.pooled


def test_half_an_answer_is_none(line: Sending) -> None:
    assert _broken(line, TOO_LARGE[:30]) == [("server_gone", Reason.SERVER_GONE)]


def test_of_half_a_body_the_end_is_told(line: Sending) -> None:
    assert _broken(line, TOO_LARGE[:-1]) == [
        ("response", 413, b"no", False),
        ("server_gone", Reason.SERVER_GONE),
    ]


def test_a_server_that_said_nothing(line: Sending) -> None:
    assert _broken(line, b"") == [("server_gone", Reason.SERVER_GONE)]


def test_a_request_that_is_whole_may_not_have_left_yet(line: Sending) -> None:
    line.codec.end(())
    assert _broken(line, TOO_LARGE) == [("response", 413, b"no!", True)]


def test_a_pooled_connection_has_no_answer(line: Sending) -> None:
    line.codec.exchange = None
    assert _broken(line, TOO_LARGE) == []
