"""A listening unix socket whose file belongs to one process at a time.

asyncio's ``create_unix_server`` removes whatever socket file is in the way, a living server's, too. Here a
file is replaced only when nobody listens behind it, and only the file that was made is removed at the end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator

_LOCK_SECONDS = 2.0
_PAUSE = 0.01


def listen_unix(path: str, mode: int, backlog: int) -> tuple[socket.socket, tuple[int, int]]:
    """Bind and listen; gives the socket, and device and inode of its file.

    Two that start at the same moment take turns (a lock on the folder, which ends with the process that
    holds it): the second one finds the first one listening.

    Raises:
        OSError: somebody listens there already, the file is something else, or it can't be made.
    """
    with _locked(os.path.dirname(path) or "."):
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            os.fchmod(sock.fileno(), 0o600)  # the file gets this mode when it is made (man 7 unix)
            sock.bind(path)
            about = os.lstat(path)
            if mode != 0o600:
                os.chmod(path, mode)
            sock.listen(backlog)
        except OSError:
            sock.close()
            raise
    return sock, (about.st_dev, about.st_ino)


def remove_own(path: str, made: tuple[int, int]) -> None:
    """Remove the file if it is still the one that `listen_unix` made.

    Call it while the socket still listens: until then no other process takes the file for a stale one, and
    the kernel gives its inode to no other file.
    """
    with contextlib.suppress(OSError):
        about = os.lstat(path)
        if (about.st_dev, about.st_ino) == made:
            os.unlink(path)


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise OSError(errno.EBUSY, f"another process keeps {folder} locked") from None
                time.sleep(_PAUSE)  # the other one needs as long as it takes to bind
        yield
    finally:
        os.close(handle)


def _remove_stale(path: str) -> None:
    try:
        about = os.lstat(path)
    except OSError:
        return  # what else is wrong, bind says
    if not stat.S_ISSOCK(about.st_mode):
        raise OSError(errno.EEXIST, f"{path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # its queue is full: somebody listens
        except OSError as error:
            raise OSError(error.errno, f"{path} is another's socket: {error.strerror}") from None
    raise OSError(errno.EADDRINUSE, "another controller listens there")
