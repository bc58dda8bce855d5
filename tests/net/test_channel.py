"""Messages and descriptors between processes."""

from __future__ import annotations

import os
import socket

import pytest

from pylb.net import channel


def test_messages_keep_their_borders_and_end() -> None:
    one, other = channel.pair()
    with one, other:
        assert channel.send(one, {"op": "a"}) and channel.send(one, {"op": "b", "n": [1]})
        assert channel.recv(other) == {"op": "a"}
        assert channel.recv(other) == {"op": "b", "n": [1]}
        with pytest.raises(BlockingIOError):
            channel.recv(other)
        one.close()
        assert channel.recv(other) is None
        assert not channel.send(other, {"op": "late"})


def test_connections_travel() -> None:
    one, other = channel.pair()
    left, right = socket.socketpair()
    with one, other, left, right:
        assert channel.recv_connections(other) is None
        assert channel.send_connections(one, {"binds": ["x"]}, [left.fileno()] * channel.MAX_FDS)
        packet = channel.recv_connections(other)
        assert packet is not None
        header, fds = packet
        assert header == {"binds": ["x"]} and len(fds) == channel.MAX_FDS
        os.write(fds[-1], b"hello")
        assert right.recv(9) == b"hello"
        channel.close_all(fds)


def test_a_full_inbox_says_so() -> None:
    one, other = channel.pair()
    with one, other:
        sent = 0
        while channel.send_connections(one, {"pad": "x" * 1000}, []):
            sent += 1
        assert 0 < sent < 100_000
        assert channel.recv_connections(other) is not None
        while channel.recv_connections(other):
            pass
        assert channel.send_connections(one, {}, [])
