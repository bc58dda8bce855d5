"""The user and group that the configuration names, looked up on this machine.

Above `model`. Nothing is changed here; `pylb.supervisor.privileges` drops root's rights.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from pylb.config.model import Config


@dataclass(frozen=True)
class Identity:
    """Whom workers and control plane run as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups."""


def identity(config: Config) -> Identity | None:
    """What ``user`` and ``group`` say; None where nothing is to be changed.

    Only root can become somebody else, so for others both are without effect (see `ignored`), as with nginx.

    Raises:
        ValueError: there is no such user or group; names the key.
    """
    if os.geteuid() != 0 or (config.user is None and config.group is None):
        return None
    uid, gid, name = 0, 0, None
    if config.user is not None:
        uid, gid, name = _user(config.user, config.group is not None)
    if config.group is not None:
        gid = _group(config.group)
    return Identity(uid, gid, tuple(os.getgrouplist(name, gid)) if name is not None else (gid,))


def ignored(config: Config) -> bool:
    """Whether ``user`` or ``group`` says something that can't be done, since pylb was not started by root."""
    if os.geteuid() == 0:
        return False
    try:
        other_user = config.user is not None and _user(config.user, True)[0] != os.geteuid()
        return other_user or (config.group is not None and _group(config.group) != os.getegid())
    except ValueError:
        return True


def problems(config: Config) -> list[str]:
    """One line for the key that names nobody."""
    try:
        identity(config)
    except ValueError as error:
        return [str(error)]
    return []


def _user(text: str, has_group: bool) -> tuple[int, int, str | None]:
    """Uid, gid and, where it is in the user database, name."""
    try:
        entry = pwd.getpwuid(int(text)) if _is_number(text) else pwd.getpwnam(text)
    except (KeyError, ValueError):
        if not _is_number(text):
            raise ValueError(f"user: this machine has no user {text!r}") from None
        if not has_group:
            raise ValueError(f"user: {text} is not in the user database; set group, too") from None
        return int(text), 0, None
    return entry.pw_uid, entry.pw_gid, entry.pw_name


def _group(text: str) -> int:
    if _is_number(text):
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise ValueError(f"group: this machine has no group {text!r}") from None


def _is_number(text: str) -> bool:
    # 2**32 - 1 is -1 for the kernel, which means "no change" (man 2 setresuid).
    return text.isascii() and text.isdigit() and int(text) < 2**32 - 1
