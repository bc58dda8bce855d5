"""The listening sockets: one per (TCP bind, worker slot), owned by the supervisor for its whole life."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Sequence

from pylb.config.address import Address

TCPI_UNACKED = struct.Struct("=8B5I")  # struct tcp_info up to tcpi_unacked
"""For a listening socket tcpi_unacked is the length of the accept queue."""


class BindError(Exception):
    """An address can't be listened on; the text is one line that says which, why, and what to do."""


def _explain(what: str, error: OSError) -> str:
    """One line: what can't be listened on, why, and what to do about it."""
    if error.errno == errno.EADDRINUSE:
        shows = "ss -lxp" if what.startswith("unix:") else "ss -ltnp"
        fix = f"another process listens there; stop it or choose another address ({shows} shows it)"
    elif error.errno in (errno.EACCES, errno.EPERM):
        fix = "permission denied; use a port above 1023, a writable path, or grant CAP_NET_BIND_SERVICE"
    elif error.errno == errno.EADDRNOTAVAIL:
        fix = "this machine has no such address; use one that `ip addr` shows, or *:PORT for all"
    elif isinstance(error, socket.gaierror):
        fix = f"the host name can't be resolved ({error.strerror}); use an IP address"
    elif error.errno == errno.ENOENT:
        fix = "the directory does not exist; create it first"
    elif error.errno == errno.EMFILE:
        fix = "too many open files; raise the limit (ulimit -n)"
    else:
        fix = error.strerror or str(error)
    return f"cannot listen on {what}: {fix}"


def _open_group(address: Address, slots: int, backlog: int) -> list[socket.socket]:
    """The reuseport group of one TCP bind; index in the group = slot, as listening order decides it."""
    opened: list[socket.socket] = []
    try:
        kind = socket.AF_INET6 if ":" in address.host else socket.AF_UNSPEC
        found = socket.getaddrinfo(address.host, address.port, kind, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
        family, _, _, _, target = found[0]
        # Another program that also uses SO_REUSEPORT would not be noticed and take a part of the
        # connections, so ask for the address alone first.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(target)
            probe.listen(1)
        for _ in range(slots):
            sock = socket.socket(family, socket.SOCK_STREAM)
            opened.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what it accepts
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(target)
            sock.listen(backlog)
            target = sock.getsockname()  # port 0: the others take the port that the first one got
    except OSError as error:
        for sock in opened:
            sock.close()
        raise BindError(_explain(str(address), error)) from None
    return opened


def listen_unix(path: str, backlog: int, mode: int | None = None) -> socket.socket:
    """Listen on a unix socket; the file of a dead process is replaced, a live one is an error.

    Args:
        mode: permissions of the file; None leaves them to the umask.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise BindError(f"cannot listen on unix:{path}: the file exists and is no socket; remove it")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)
                except (BlockingIOError, TimeoutError):  # alive, its queue is full
                    raise OSError(errno.EADDRINUSE, "in use") from None
                else:
                    raise OSError(errno.EADDRINUSE, "in use")
        before = os.umask(0o777 & ~mode) if mode is not None else None
        try:
            sock.bind(path)
        finally:
            if before is not None:
                os.umask(before)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise BindError(_explain(f"unix:{path}", error)) from None
    except BindError:
        sock.close()
        raise
    return sock


def listen_admin(address: Address, folder_mode: int = 0o700) -> socket.socket:
    """The admin socket: unix with mode 0600 in a directory made if need be, or one plain TCP socket."""
    if not address.is_unix:
        return _open_group(address, 1, 128)[0]
    directory = os.path.dirname(address.path)
    if directory:
        with contextlib.suppress(OSError):
            os.makedirs(directory, mode=folder_mode, exist_ok=True)
    return listen_unix(address.path, 128, 0o600)


class Listeners:
    """All listening sockets of the data plane.

    Args:
        binds: (frontend name, address) pairs.
        slots: how many worker slots there are.
        backlog: accept queue of each socket.

    Raises:
        BindError: an address can't be used; nothing stays open.
    """

    def __init__(self, binds: Sequence[tuple[str, Address]], slots: int, backlog: int) -> None:
        self.slots = slots
        self.backlog = backlog
        self.sockets: dict[str, list[socket.socket]] = {}
        self._addresses: dict[str, Address] = {}
        try:
            for _, address in binds:
                self._open(address)
        except BindError:
            self.close()
            raise

    def _open(self, address: Address) -> None:
        if address.is_unix:
            group = [listen_unix(address.path, self.backlog)] * self.slots
        else:
            group = _open_group(address, self.slots, self.backlog)
        self.sockets[str(address)] = group
        self._addresses[str(address)] = address

    def groups(self) -> list[list[socket.socket]]:
        """The reuseport groups (TCP binds only), each in slot order."""
        return [group for key, group in self.sockets.items() if not self._addresses[key].is_unix]

    def accept_queue(self, slot: int) -> int:
        """Connections that the kernel completed for this slot and nobody accepted yet."""
        total = 0
        for group in self.groups():
            with contextlib.suppress(OSError):
                info = group[slot].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_UNACKED.size)
                total += TCPI_UNACKED.unpack(info)[12]
        return total

    def updated(self, binds: Sequence[tuple[str, Address]]) -> tuple[Listeners, list[socket.socket]]:
        """Listeners for new binds, sharing the sockets of addresses that stay, and what was removed.

        The removed sockets are still open: their queues must be emptied before the caller closes them.

        Raises:
            BindError: a new address can't be used; nothing has changed then.
        """
        new = Listeners([], self.slots, self.backlog)
        fresh: list[str] = []
        try:
            for _, address in binds:
                key = str(address)
                if key in self.sockets:
                    new.sockets[key] = self.sockets[key]
                    new._addresses[key] = address
                else:
                    new._open(address)
                    fresh.append(key)
        except BindError:
            for key in fresh:
                new.close_one(key)
            raise
        gone = [sock for key, group in self.sockets.items() if key not in new.sockets for sock in group]
        return new, list(dict.fromkeys(gone))

    def close_one(self, key: str, unlink: bool = True) -> None:
        """Close the sockets of one bind, and remove the file of a unix socket."""
        for sock in self.sockets.pop(key, []):
            sock.close()
        address = self._addresses.pop(key, None)
        if unlink and address is not None and address.is_unix:
            with contextlib.suppress(OSError):
                os.unlink(address.path)

    def close(self, unlink: bool = True) -> None:
        """Close everything; a forked child passes ``unlink=False``."""
        for key in list(self.sockets):
            self.close_one(key, unlink)
