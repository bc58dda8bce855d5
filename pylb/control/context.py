"""What the supervisor gives the control plane's process. Below `main`; the supervisor fills it in."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pylb.config.address import Address
from pylb.config.model import Backend, Config, Server
from pylb.control.sources.source import Access
from pylb.net.serverlists import Lists
from pylb.scoreboard import Scoreboard


@dataclass
class ControlContext:
    """Everything the control plane needs; all of it exists before the fork."""

    config: Config
    board: Scoreboard
    channel: socket.socket
    """SEQPACKET to the supervisor; end of file means: exit."""
    lists: Lists
    """The servers of each backend."""
    version: int
    """Of the lists."""
    kept: dict[str, Any]
    """What earlier control planes have left (``keep``), by key."""
    admin_socket: socket.socket | None
    """Listening already, and kept by the supervisor when the control plane restarts."""
    admin_address: Address
    admin_token: str | None
    """What a client on TCP must know; read by the supervisor, since its file need not be readable here."""
    admin_read_token: str | None
    """With which a client on TCP may read."""
    file: str | None
    """The configuration's file, for the operator; None where there is none."""
    generation: int
    started_at: float
    """``time.time()`` of the supervisor's start."""
    check_contexts: Mapping[str, ssl.SSLContext]
    """For checks of servers by TLS, by backend."""
    controller_token: str = ""
    controller_tls: ssl.SSLContext | None = None
    sources: Mapping[tuple[str, str], Access] = field(default_factory=dict)
    """By backend and source of servers, what was read for it."""


@dataclass
class FirstContext:
    """What the process needs that checks servers before a generation serves."""

    servers: Sequence[tuple[Backend, Server, int]]
    """With their index in the scoreboard."""
    board: Scoreboard
    contexts: Mapping[str, ssl.SSLContext]
    """For checks by TLS, by backend."""
    unsafe_regex: bool
