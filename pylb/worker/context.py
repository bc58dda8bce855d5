"""What the supervisor gives a worker process at its fork.

Floor: the very bottom of the worker, since the supervisor knows this module, too; data alone.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field

from pylb.config.logtarget import Destination, Target
from pylb.config.model import Config
from pylb.config.tls import ListenerTls
from pylb.net.serverlists import Lists
from pylb.rules.maps import Map
from pylb.scoreboard import Scoreboard


@dataclass
class WorkerContext:
    """Everything a worker needs to serve; all of it exists before the fork."""

    config: Config
    row: int
    """The worker's own row of the scoreboard, and its inbox."""
    slot: int
    generation: int
    listeners: dict[str, list[socket.socket]]
    """Bind key to one socket per slot; which to read is told by ``listen`` messages."""
    board: Scoreboard
    channel: socket.socket
    """SEQPACKET to the supervisor; end of file means that the supervisor died."""
    inbox: socket.socket
    """Where other workers' connections arrive."""
    inboxes: list[socket.socket]
    """Sending ends of all inboxes, by row."""
    lists: Lists
    """The servers of each backend."""
    version: int
    """Of the lists."""
    tls: dict[str, ListenerTls] = field(default_factory=dict)
    """Bind key to its listener's TLS."""
    backend_tls: dict[str, ssl.SSLContext] = field(default_factory=dict)
    """Backend's name to the context of connections to its servers."""
    upgrade_tls: dict[str, ssl.SSLContext] = field(default_factory=dict)
    """Likewise of those for upgrades, which speak HTTP/1.1 though the backend has HTTP/2."""
    maps: dict[str, Map] = field(default_factory=dict)
    """Maps of the rules, with what their files held."""
    bodies: dict[str, bytes] = field(default_factory=dict)
    """What the files of answers and error pages held, by their path."""
    access_logs: dict[Target, int | Destination] = field(default_factory=dict)
    """Of each target of an access log, the open file, or the address of a syslog server."""
    sticky: dict[str, bytes] = field(default_factory=dict)
    """Backend's name to the secret of its sticky cookie's values, where they have one."""
