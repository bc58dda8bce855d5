"""Where access logs go: files opened without harm, addresses of syslog looked up, and both tried before.

Above `model`. The supervisor opens what is found here, with its rights, and `trials` tries it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from pylb.config.accesslog import AccessLog, in_force
from pylb.config.address import parse_address, resolve
from pylb.config.model import Config

_MODE = 0o640  # who asked for what is not everybody's to read


@dataclass(frozen=True, slots=True)
class Target:
    """Where lines go; frontends with equal ones share it."""

    name: str
    """As it is configured, for the log."""
    path: str = ""
    """Of a file; else empty."""
    syslog: tuple[str, str, str, str] | None = None
    """Address, version, facility and tag."""


Destination = tuple[int, str | tuple[str | int, ...]]
"""Family and address of a syslog server."""


def target_of(log: AccessLog) -> Target:
    """Where an access log goes."""
    kind, colon, rest = log.to.partition(":")
    if kind == "syslog" and colon:
        return Target(log.to, syslog=(rest, log.syslog, log.facility, log.tag))
    return Target(log.to, path="" if log.to == "stdout" else os.path.abspath(log.to))


def targets(config: Config) -> Iterator[tuple[str, Target]]:
    """The access logs' targets, each with the key that names it; none twice."""
    seen: set[Target] = set()
    for number, frontend in enumerate(config.frontends):
        log = in_force(config.log.access, frontend.access_log)
        if log is None:
            continue
        target = target_of(log)
        if target not in seen:
            seen.add(target)
            own = frontend.access_log
            named = own is not None and (config.log.access is None or "to" in own.model_fields_set)
            yield (f"frontend[{number}].access_log.to" if named else "log.access.to"), target


def open_file(path: str) -> int:
    """Open a log for appending, never waiting; gives the descriptor.

    Root follows no link at the path's end: who may write in that folder could lead it to any other file.

    Raises:
        OSError: it can't be opened, or is nothing to write to.
    """
    return _opened(path, os.O_CREAT)


def _opened(path: str, flags: int) -> int:
    flags |= os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if os.geteuid() == 0:
        flags |= os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, _MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, "is a link; write the path that it leads to", path) from None
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, "is a socket, or a pipe that nobody reads", path) from None
        raise
    os.set_blocking(descriptor, True)  # a thread of its own waits for it
    return descriptor


def try_out(target: Target) -> None:
    """Whether it could be used now; nothing is made. Raises OSError or ValueError."""
    if target.syslog is not None:
        destination(target)
    elif target.path:
        try:
            os.close(_opened(target.path, 0))
        except FileNotFoundError:
            folder = os.path.dirname(target.path)
            if not os.path.isdir(folder):
                raise OSError(errno.ENOENT, "no such directory", folder) from None
            if not os.access(folder, os.W_OK | os.X_OK):
                raise OSError(errno.EACCES, "no file can be made in this directory", folder) from None


def destination(target: Target) -> Destination:
    """Where a target's messages are sent to; raises OSError where a name is unknown."""
    assert target.syslog is not None
    address = parse_address(target.syslog[0])
    if address.is_unix:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as probe:
            try:
                probe.connect(address.path)
            except OSError as error:
                raise OSError(error.errno, error.strerror, address.path) from None
        return socket.AF_UNIX, address.path
    family, where = resolve(address)[0]
    return family, where
