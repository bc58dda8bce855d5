"""Which listening socket of a reuseport group a new connection goes to, and which gets none any more.

The kernel asks a classic BPF program for an index into the group. pylb's draws a random 32-bit number and
compares it with ascending thresholds, so that a slot gets new connections in proportion to its weight
and a slot of weight 0 gets none.
"""

from __future__ import annotations

import ctypes
import errno
import math
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

TOTAL = 65536
"""What the weights of `weights_for` add up to."""
LOOK = 0.1
"""Seconds between two looks at what the slots hold."""
HORIZON = 0.3
"""Seconds within which new connections should even out what slots hold: a few looks, lest they overshoot."""
_HALF_LIFE = 0.5  # seconds, of the rate at which connections come

SO_ATTACH_FILTER = 26  # include/uapi/asm-generic/socket.h
SO_ATTACH_REUSEPORT_CBPF = 51

# linux/filter.h, linux/bpf_common.h
LOAD_WORD_ABSOLUTE = 0x20  # BPF_LD | BPF_W | BPF_ABS
LOAD_BYTE_ABSOLUTE = 0x30  # BPF_LD | BPF_B | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GREATER_EQUAL = 0x35  # BPF_JMP | BPF_JGE | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
RANDOM = (-0x1000 + 56) & 0xFFFFFFFF  # SKF_AD_OFF + SKF_AD_RANDOM


class Instruction(NamedTuple):
    """One ``struct sock_filter``."""

    code: int
    jump_true: int
    jump_false: int
    k: int


class _SockFilter(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_SockFilter))]


def program(weights: Sequence[int]) -> list[Instruction]:
    """The program that picks slot *i* with probability ``weights[i] / sum(weights)``.

    Args:
        weights: one per slot, not negative, not all 0.
    """
    live = [(slot, weight) for slot, weight in enumerate(weights) if weight > 0]
    if not live or any(weight < 0 for weight in weights):
        raise ValueError("weights must not be negative, and one must be above 0")
    total = sum(weight for _, weight in live)
    code = [Instruction(LOAD_WORD_ABSOLUTE, 0, 0, RANDOM)]
    passed = 0
    for slot, weight in live[:-1]:
        passed += weight
        # Rounded down; a share below 2**-32 would be an empty interval, which is right as well.
        threshold = (passed << 32) // total
        code.append(Instruction(JUMP_GREATER_EQUAL, 1, 0, threshold))
        code.append(Instruction(RETURN, 0, 0, slot))
    code.append(Instruction(RETURN, 0, 0, live[-1][0]))
    return code


def attach(sock: socket.socket, weights: Sequence[int]) -> bool:
    """Put the program on the reuseport group that ``sock`` belongs to, in place of an earlier one.

    Returns False where the kernel or a sandbox refuses; the group then goes by the kernel's own hash.
    """
    return _put(sock, SO_ATTACH_REUSEPORT_CBPF, program(weights))


_FLAGS = 13  # offset in a TCP header (RFC 9293 §3.1); a socket's filter sees a segment from there
_SYN, _ACK = 0x02, 0x10
_NO_SYN = [
    Instruction(LOAD_BYTE_ABSOLUTE, 0, 0, _FLAGS),
    Instruction(AND, 0, 0, _SYN | _ACK),
    Instruction(JUMP_EQUAL, 0, 1, _SYN),
    Instruction(RETURN, 0, 0, 0),  # so many bytes of it are kept: it is dropped
    Instruction(RETURN, 0, 0, 0xFFFFFFFF),
]


def turn_away(sock: socket.socket) -> bool:
    """Let no new handshake begin at a TCP listener that is about to be closed; those under way go on.

    A client whose SYN is dropped sends it again after a second (RFC 6298), and comes to whoever listens there
    by then. Without this the kernel resets what it completes between the last accept and the close.

    Returns False where the kernel or a sandbox refuses.
    """
    return _put(sock, SO_ATTACH_FILTER, _NO_SYN)


def _put(sock: socket.socket, option: int, code: Sequence[Instruction]) -> bool:
    filters = (_SockFilter * len(code))(*(_SockFilter(*step) for step in code))
    fprog = _SockFprog(len(code), ctypes.cast(filters, ctypes.POINTER(_SockFilter)))
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, bytes(fprog))
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise
        return False
    return True


class Arrivals:
    """The rate at which connections come, smoothed."""

    def __init__(self) -> None:
        self.rate = 0.0
        """Per second."""
        self._total = 0
        self._at = -math.inf

    def look(self, total: int, now: float) -> None:
        """``total`` connections have come so far; ``now`` in monotonic seconds."""
        passed = now - self._at
        if passed > 0:
            keep = 0.5 ** (passed / _HALF_LIFE)
            self.rate = keep * self.rate + (1 - keep) * max(0, total - self._total) / passed
            self._total, self._at = total, now


def weights_for(connections: Mapping[int, float], rate: float = 0.0, strong: bool = False) -> dict[int, int]:
    """Weights (adding up to `TOTAL`) that send more new connections to slots that hold fewer.

    Args:
        connections: by slot, those that wait to be accepted included.
        rate: new connections per second, all together.
        strong: clients have been asked to connect anew so that slots become even: those that come now should
            rather not return to where they were.

    A slot's share falls linearly with its lead over the emptiest one: by as much as evens them out within
    `HORIZON`, or more slowly where few come. Short connections come by the hundred between two looks, and
    stronger weights would chase the queue to and fro. It never falls below a quarter of an equal share, so
    that a burst still spreads over all (of a sixteenth when ``strong``).
    """
    if not connections:
        return {}
    slots = sorted(connections)
    highest = max(connections.values())
    mean = sum(connections.values()) / len(slots)
    # Below a few connections per slot the differences say nothing.
    scale = max(1.0 if strong else max(mean, 8.0), rate * HORIZON / len(slots))
    raw = {slot: 1.0 + (highest - connections[slot]) / scale for slot in slots}
    ceiling = (16.0 if strong else 4.0) * min(raw.values())
    raw = {slot: min(value, ceiling) for slot, value in raw.items()}
    total = sum(raw.values())
    weights = {slot: max(1, int(TOTAL * value / total)) for slot, value in raw.items()}
    first = min(slots, key=lambda slot: (connections[slot], slot))
    weights[first] += TOTAL - sum(weights.values())
    return weights
