"""Root's rights: the supervisor keeps them, as nginx's master does; its children drop them for good.

The supervisor needs them to bind low ports, to read keys at a reload, and to signal its children. What its
children need is opened, read and imported before: they may not even be able to read Python's own files.
A bottom floor of the supervisor: it knows the configuration, and not which processes there are.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import stat
from typing import Any

from pylb.config.address import Address
from pylb.config.identity import Identity, identity
from pylb.config.model import Config
from pylb.log import log

_LIBC: Any = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS = 38  # man 2 prctl

# What the standard library imports at first use, which may be in a process that has dropped its rights.
_LAZY = ("concurrent.futures.thread", "encodings.idna", "encodings.unicode_escape", "traceback")


class Identities:
    """The identity of each configuration that processes run with, looked up once.

    A name is looked up by the supervisor when a configuration is read, not at each fork: the user database
    may be slow or gone by then.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, str | None], Identity | None] = {}

    def look_up(self, config: Config) -> Identity | None:
        """Look it up anew, and try it.

        Raises:
            OSError: there is no user of that name, or a process can't become that user here.
        """
        try:
            found = identity(config)
        except ValueError as error:
            raise OSError(str(error)) from None
        if found is not None:
            _try_out(found)
        self._known[config.user, config.group] = found
        return found

    def of(self, config: Config) -> Identity | None:
        """What was found, for a configuration that was looked up before."""
        return self._known[config.user, config.group]


def warm() -> None:
    """Import what would be imported later; to be called before the first fork."""
    for name in _LAZY:
        importlib.import_module(name)


def drop(who: Identity | None) -> None:
    """Become ``who`` for good; with None only renounce what a program with the set-user-ID bit could give.

    Raises:
        OSError: the kernel refuses.
        PermissionError: root's rights could be had back.
    """
    if who is not None:
        os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no new privileges: {os.strerror(number)}")
    if who is not None and who.uid != 0:
        if os.getresuid() != (who.uid,) * 3 or os.getresgid() != (who.gid,) * 3:
            raise PermissionError("not the user and group that were asked for")
        try:
            os.setresuid(0, 0, 0)
        except PermissionError:
            return
        raise PermissionError("root's rights could be had back")


def _try_out(who: Identity) -> None:
    """Have a child become that user, and see whether it can still be signalled.

    A container, a unit or a user namespace can take away what that needs; better said before anything serves.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            try:
                drop(who)
            except BaseException as error:
                os.write(write, str(error).encode()[:512] or b"?")
            finally:
                os._exit(0)
    except OSError:
        os.close(read)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(write)
    try:
        why = os.read(read, 512).decode(errors="replace")
        try:
            os.kill(pid, 0)  # the kernel checks the permission for a zombie, too
        except PermissionError:
            why = why or "what runs as another user can't be signalled here (CAP_KILL is missing)"
    finally:
        os.close(read)
        os.waitpid(pid, 0)
    if why:
        raise OSError(f"user: can't become uid {who.uid}, gid {who.gid} here: {why}")


def folder_mode(who: Identity | None) -> int:
    """The mode of a folder that is made for a socket of the user's: it stays root's, and can be passed."""
    return 0o700 if who is None else 0o711


def give(address: Address, who: Identity | None) -> None:
    """Make a unix socket's file the user's, as if it were them who listen there.

    Root must not be led to give away another file, where the folder is writable for others: by the descriptor
    it is that very file, and a socket with no other name.
    """
    if who is None or not address.is_unix:
        return
    try:
        fd = os.open(address.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            about = os.fstat(fd)
            if not stat.S_ISSOCK(about.st_mode) or about.st_nlink != 1:
                raise PermissionError("another file has taken its place")
            os.chown(f"/proc/self/fd/{fd}", who.uid, who.gid)
        finally:
            os.close(fd)
    except OSError as error:
        log.warning("%s stays root's: %s", address, error)
