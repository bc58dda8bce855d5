"""The admin socket, which the supervisor owns: open before the control plane is forked, and after it died.

Above `listeners`. Who may ask for what is decided in the control plane (`pylb.control.gate`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Sequence

from pylb.config.address import Address, Place, loopback, place
from pylb.config.runtime import distrust
from pylb.net.listeners import BindError, identity, listen_unix, open_group, unlink_own


class AdminSocket:
    """A unix socket with mode 0600 in a directory made if need be, or one plain TCP socket.

    Args:
        address: where.
        guarded: whether a token is asked for; without one, a TCP address must be loopback.
        own: further sockets of pylb, which may be in its way.
        folder_mode: of a directory that is made.

    Raises:
        BindError: the address can't be used.
    """

    def __init__(
        self,
        address: Address,
        guarded: bool,
        own: Sequence[socket.socket] = (),
        folder_mode: int = 0o700,
    ) -> None:
        self.address = address
        self._file = None
        if not address.is_unix:
            self.sock = open_group(address, 1, 128, own)[0]
            name = Address(*self.sock.getsockname()[:2])
            if not guarded and not loopback(name):  # a host name that leads elsewhere
                self.sock.close()
                raise BindError(f"cannot listen on {address}: it is {name}, so admin_token_file must be set")
            return
        directory = os.path.dirname(address.path)
        if directory:
            with contextlib.suppress(OSError):
                os.makedirs(directory, mode=folder_mode, exist_ok=True)
        doubt = distrust(address.path)
        if doubt:
            raise BindError(f"cannot listen on {address}: {doubt}")
        self.sock = listen_unix(address.path, 128, 0o600)
        self._file = identity(address.path)

    def is_at(self, address: Address) -> bool:
        """Whether it listens at an address, in whichever spelling; raises OSError where a name can't be
        resolved."""
        if address == self.address:
            return True
        if address.is_unix != self.address.is_unix:
            return False
        if address.is_unix:
            return place(address) == place(self.address)
        name = self.sock.getsockname()
        mine: Place = (str(name[0]), int(name[1]))
        return place(address) == mine

    def step_aside(self) -> Address | None:
        """Make room for the next instance of the program while this one drains.

        A unix socket is moved, so that one can still watch the drain, and its new address is given. A TCP
        socket is closed (the control plane has to close its copy, too).
        """
        if not self.address.is_unix:
            self.sock.close()
            return None
        path = self.address.path
        aside = f"{path}.{os.getpid()}"
        if self._file is None or identity(path) != self._file:
            return None  # another process has put its own file there
        try:
            os.rename(path, aside)
        except OSError:
            return None
        self.address = Address("", 0, aside)
        return self.address

    def close(self) -> None:
        """Close it and remove the file, if it is still this socket's."""
        self.sock.close()
        if self.address.is_unix:
            unlink_own(self.address.path, self._file)


def aside_of(path: str) -> list[str]:
    """Sockets that draining instances have moved away from a path, the latest last."""
    directory, name = os.path.split(path)
    found: list[tuple[int, str]] = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory or "."):
            stem, _, pid = entry.name.rpartition(".")
            if stem == name and pid.isascii() and pid.isdigit():
                about = entry.stat(follow_symlinks=False)
                if stat.S_ISSOCK(about.st_mode):
                    found.append((about.st_ctime_ns, entry.path))
    return [path for _, path in sorted(found)]
