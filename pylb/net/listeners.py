"""The listening sockets: one per (TCP bind, worker slot), owned by the supervisor for its whole life.

Above `strangers`. Workers get the sockets by fork and read those that the supervisor tells them to; which
socket a new connection goes to is decided in `steering`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Sequence

from pylb.config.address import Address, Place, place, resolve
from pylb.config.model import Tcp
from pylb.net import strangers, tcpoptions

TCPI_UNACKED = struct.Struct("=8B5I")  # struct tcp_info up to tcpi_unacked
"""For a listening socket tcpi_unacked is the length of the accept queue."""


class BindError(Exception):
    """An address can't be listened on; the text is one line that says which, why, and what to do."""


def _explain(what: str, error: Exception) -> str:
    """One line: what can't be listened on, why, and what to do about it."""
    if not isinstance(error, OSError):
        fix = str(error)
    elif error.errno == errno.EADDRINUSE:
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


def open_group(
    address: Address, slots: int, backlog: int, own: Sequence[socket.socket] = ()
) -> list[socket.socket]:
    """The reuseport group of one TCP bind; index in the group = slot, as listening order decides it.

    ``own`` are further sockets of pylb, which may overlap with this address (``127.0.0.1:80`` with ``*:80``).
    One at the very same address is refused, since the kernel would make one group of both.
    """
    opened: list[socket.socket] = []
    try:
        family, target = resolve(address)[0]
        open_ = [sock for sock in own if sock.fileno() >= 0 and sock.family == family]
        if any(sock.getsockname()[:2] == target[:2] for sock in open_):
            raise ValueError("pylb itself has it for another purpose; reload without it first, then with it")
        _refuse_strangers(family, target, strangers.inodes(own))
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
    except BaseException as error:
        for sock in opened:
            sock.close()
        if isinstance(error, OSError | ValueError | OverflowError):
            raise BindError(_explain(str(address), error)) from None
        raise
    return opened


def _refuse_strangers(family: int, target: tuple[str | int, ...], own: frozenset[int]) -> None:
    """Raise OSError where another program listens; with SO_REUSEPORT on both sides the kernel wouldn't."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(target)
            probe.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not own:
                raise
        else:
            return
    # Something listens there. Where all of it is pylb's own, the address can be listened on beside it.
    if strangers.stranger(family, str(target[0]), int(target[1]), own):
        raise OSError(errno.EADDRINUSE, "in use")


def _place(address: Address) -> Place:
    try:
        return place(address)
    except OSError as error:
        raise BindError(_explain(str(address), error)) from None


Identity = tuple[int, int]
"""Device and inode of a socket's file."""


def identity(path: str) -> Identity | None:
    """Which file a path leads to; None where there is none."""
    try:
        about = os.lstat(path)
    except (OSError, ValueError):
        return None
    return about.st_dev, about.st_ino


def unlink_own(path: str, own: Identity | None) -> None:
    """Remove a socket's file unless somebody has put another one there."""
    if own is not None and identity(path) == own:
        with contextlib.suppress(OSError):
            os.unlink(path)


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
            dead = identity(path)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    unlink_own(path, dead)  # unless somebody was quicker and listens there now
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
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError | ValueError | OverflowError):
            raise BindError(_explain(f"unix:{path}", error)) from None
        raise
    return sock


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
        self._files: dict[str, Identity | None] = {}
        try:
            for _, address in binds:
                self._open(address)
        except BaseException:
            self.close()
            raise

    def _open(self, address: Address, own: Sequence[socket.socket] = ()) -> None:
        key = str(address)
        if address.is_unix:
            group = [listen_unix(address.path, self.backlog)] * self.slots
            self._files[key] = identity(address.path)
        else:
            group = open_group(address, self.slots, self.backlog, own)
        self.sockets[key] = group
        self._addresses[key] = address

    def _places(self) -> dict[Place, str]:
        """Where the sockets are, and the keys of their binds."""
        found: dict[Place, str] = {}
        for key, group in self.sockets.items():
            address = self._addresses[key]
            if address.is_unix:
                found[place(address)] = key
            else:
                name = group[0].getsockname()
                found[str(name[0]), int(name[1])] = key
        return found

    def all(self) -> list[socket.socket]:
        """Every socket; a unix bind's stands once for each slot."""
        return [sock for group in self.sockets.values() for sock in group]

    def groups(self) -> list[list[socket.socket]]:
        """The reuseport groups (TCP binds only), each in slot order."""
        return [group for key, group in self.sockets.items() if not self._addresses[key].is_unix]

    def set_options(self, config: Tcp) -> None:
        """Have the connections that are accepted from now on watched by the kernel as this says."""
        wanted = tcpoptions.options(config)
        for group in self.groups():
            for sock in group:
                tcpoptions.apply(sock, wanted)

    def accept_queue(self, slot: int) -> int:
        """Connections that the kernel completed for this slot and nobody accepted yet."""
        total = 0
        for group in self.groups():
            with contextlib.suppress(OSError):
                info = group[slot].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_UNACKED.size)
                total += TCPI_UNACKED.unpack(info)[12]
        return total

    def updated(
        self, binds: Sequence[tuple[str, Address]], own: Sequence[socket.socket] = ()
    ) -> tuple[Listeners, list[socket.socket]]:
        """Listeners for new binds, sharing the sockets of addresses that stay, and what was removed.

        The removed sockets are still open: their queues must be emptied before the caller closes them.

        Args:
            own: further sockets of pylb, which may be in a new address's way.

        Raises:
            BindError: a new address can't be used; nothing has changed then.
        """
        new = Listeners([], self.slots, self.backlog)
        known = [*self.all(), *own]
        used = self._places()
        fresh: list[str] = []
        try:
            for _, address in binds:
                key = str(address)
                before = key if key in self.sockets else used.get(_place(address))
                if before is not None:
                    # Of two sockets with one address the kernel would make one group, in which indices shift.
                    new.sockets[key] = self.sockets[before]
                    new._addresses[key] = address
                    new._files[key] = self._files.get(before)
                else:
                    new._open(address, known)
                    fresh.append(key)
        except BaseException:
            for key in fresh:
                new.close_one(key)
            raise
        kept = {id(sock) for sock in new.all()}
        gone = [sock for sock in self.all() if id(sock) not in kept]
        return new, list(dict.fromkeys(gone))

    def close_others(self, kept: Listeners) -> None:
        """Close the binds that these listeners have and ``kept`` haven't."""
        shared = {id(sock) for sock in kept.all()}
        for key, group in list(self.sockets.items()):
            if key not in kept.sockets and not (group and id(group[0]) in shared):
                self.close_one(key)

    def close_one(self, key: str, unlink: bool = True) -> None:
        """Close the sockets of one bind, and remove the file of a unix socket."""
        for sock in self.sockets.pop(key, []):
            sock.close()
        address = self._addresses.pop(key, None)
        own = self._files.pop(key, None)
        if unlink and address is not None and address.is_unix:
            unlink_own(address.path, own)

    def close(self, unlink: bool = True) -> None:
        """Close everything; a forked child passes ``unlink=False``."""
        for key in list(self.sockets):
            self.close_one(key, unlink)
