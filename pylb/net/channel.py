"""Messages between the processes, over ``SOCK_SEQPACKET`` socket pairs that never block.

A *channel* carries one JSON object per packet between the supervisor and a child. An *inbox* carries client
connections between workers: a JSON header with the descriptors beside it (``SCM_RIGHTS``). What messages
mean is not known here; their fields are checked in `messages`.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from pylb.log import log

MAX_FDS = 200
"""Descriptors per packet; the kernel refuses more than 253."""

_RIGHTS = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)

MAX_PACKET = 256 * 1024
"""A sender must keep a packet below the send buffer; `pair` asks the kernel for one of this size."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, both non-blocking, not inherited through exec."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_PACKET)
    return ends


def send(sock: socket.socket, message: dict[str, Any]) -> bool:
    """Send one message; False when the other end's queue is full (or it is gone).

    A message that can never be sent (too large for the kernel, or no JSON) is a programming error. It is
    logged, dropped, and answered with True: to keep it would hold up those behind it for ever.
    """
    try:
        data = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")
        if len(data) > MAX_PACKET:
            raise OSError(errno.EMSGSIZE, f"{len(data)} bytes are more than a packet holds")
        sock.send(data, socket.MSG_NOSIGNAL)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            return False
        log.error("a message %.40r can't be sent and is dropped: %s", message.get("op"), error)
    except (TypeError, ValueError, RecursionError) as error:
        log.error("a message %.40r can't be sent and is dropped: %r", message.get("op"), error)
    return True


def recv(sock: socket.socket, fds: list[int] | None = None) -> dict[str, Any] | None:
    """The next message.

    Args:
        fds: gets the descriptors that came with it, now the caller's; without a list they are refused.

    Raises:
        BlockingIOError: nothing is there now.
        ValueError: what came is no message; the next one may be.

    Returns None at the end of file, which means that the other process is gone.
    """
    try:
        if fds is None:
            data = sock.recv(MAX_PACKET)
        else:
            data, ancillary, _, _ = sock.recvmsg(MAX_PACKET, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
            fds += _descriptors(ancillary)
    except BlockingIOError:
        raise
    except OSError:  # reset; whatever else is wrong with it, nothing more will come
        return None
    if not data:
        return None
    try:
        message = json.loads(data)
    except RecursionError:
        raise ValueError("a message is nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("a message must be a JSON object")
    return message


def waiting(sock: socket.socket, fds: list[int] | None = None) -> Iterator[dict[str, Any] | None]:
    """The messages that are there now; None, when the other process is gone, is the last.

    With a list for descriptors (see `recv`), those that nobody has taken from it by the next message are
    closed.
    """
    while True:
        if fds:
            close_all(fds)
            fds.clear()
        try:
            message = recv(sock, fds)
        except BlockingIOError:
            return
        except ValueError as error:
            log.error("what came is no message: %.200s", error)
            continue
        yield message
        if message is None:
            return


def send_connections(sock: socket.socket, header: dict[str, Any], fds: Sequence[int]) -> bool:
    """Send descriptors with a header; False when the queue is full and nothing was sent.

    The caller still owns the descriptors and closes its copies after True. A packet that is too large for
    the kernel (``EMSGSIZE``) or too many descriptors in flight (``ETOOMANYREFS``) also answer False.
    """
    if len(fds) > MAX_FDS:
        raise ValueError(f"{len(fds)} descriptors in one packet, at most {MAX_FDS}")
    data = json.dumps(header, separators=(",", ":")).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([data], rights, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def recv_connections(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next packet of an inbox with its descriptors (now the caller's), None when there is none."""
    flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    try:
        data, ancillary, _, _ = sock.recvmsg(MAX_PACKET, _RIGHTS, flags)
    except (BlockingIOError, ConnectionResetError):
        return None
    received = _descriptors(ancillary)
    if not data and not received:
        return None
    try:
        header = json.loads(data)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        close_all(received)
        return {}, []
    return header, received


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return list(fds)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors, whatever state they are in."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
