"""Where the admin socket lies unless the configuration says otherwise, and whether that place can be trusted.

Knows nothing of the configuration; the command line asks it where a running balancer may be.
"""

from __future__ import annotations

import os
import stat

SERVICE = "/run/pylb"
"""The run-time directory of a balancer that root started."""


def default_admin_path() -> str:
    """The admin socket of a balancer that this user starts; nothing is made here.

    ``PYLB_RUNTIME_DIR`` goes first. Root's is in `SERVICE` whatever its ``XDG_RUNTIME_DIR`` says: that is
    there or not by the way in which root came in, and a service's socket must not depend on it.
    """
    return f"{_directory()}/admin.sock"


def admin_paths() -> list[str]:
    """Where `status` looks: this user's own balancer first, then the service."""
    own = default_admin_path()
    service = f"{SERVICE}/admin.sock"
    return [own] if own == service or os.environ.get("PYLB_RUNTIME_DIR") else [own, service]


def _directory() -> str:
    named = os.environ.get("PYLB_RUNTIME_DIR")
    if named:
        return named
    user = os.geteuid()
    if user == 0:
        return SERVICE
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_of(runtime, user):
        return f"{runtime}/pylb"
    return _shared(user)


def _shared(user: int) -> str:
    """The last resort; as everybody may make files in ``/tmp``, it may be somebody else's (`distrust`)."""
    return f"/tmp/pylb-{user}"


def _is_of(directory: str, user: int) -> bool:
    """Whether a directory is the user's own; after ``su`` XDG_RUNTIME_DIR still names another user's."""
    try:
        return os.stat(directory).st_uid == user
    except (OSError, ValueError):
        return False


def distrust(path: str) -> str:
    """What is wrong with the place of an admin socket, for one below ``/tmp/pylb-UID``; empty if nothing is.

    Somebody else could have made that directory first and listen there, or have put a link in its place. A
    directory that doesn't exist yet is fine, and the user's own can't be exchanged by others: ``/tmp`` is
    sticky.
    """
    user = os.geteuid()
    directory = os.path.dirname(path)
    if directory != _shared(user):
        return ""
    try:
        about = os.lstat(directory)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{directory}: {error.strerror}"
    fix = "remove it, or say where the admin socket is to be (admin, PYLB_RUNTIME_DIR)"
    if stat.S_ISLNK(about.st_mode):
        return f"{directory} is a link, which somebody else may have put there; {fix}"
    if not stat.S_ISDIR(about.st_mode):
        return f"{directory} is no directory; {fix}"
    if about.st_uid != user:
        return f"{directory} belongs to user {about.st_uid}, not to {user}; {fix}"
    if about.st_mode & 0o077:
        mode = stat.S_IMODE(about.st_mode)
        return f"{directory} is open to others (mode {mode:04o}); chmod 700 {directory}, or {fix}"
    return ""
