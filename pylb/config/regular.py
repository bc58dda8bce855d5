"""Reading files that users name, without ever waiting for one: only regular files of a bounded size.

The supervisor reads them at start and at each reload, while it watches its workers; a pipe or a device could
keep it waiting for ever. This module knows nothing of the configuration.
"""

from __future__ import annotations

import errno
import os
import re
import stat

_LARGEST_PEM = 16 * 1024 * 1024  # bytes; the system's bundle of CAs is a quarter of a MiB
_LARGEST_TOKEN_FILE = 65536  # bytes


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """A regular file's bytes.

    Raises:
        OSError: it is no regular file, is larger than ``most`` bytes, or can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _refuse_irregular(path, os.fstat(descriptor), most)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise OSError(errno.EINVAL, f"is larger than {most >> 10} KiB", os.fspath(path))
    return data


def require_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError unless a library may be told to read this file, which it does without such care."""
    _refuse_irregular(path, os.stat(path), _LARGEST_PEM)


def read_secret(path: str) -> str:
    """A token as it stands in a file, without the white space around it.

    Raises:
        OSError: as `read_regular`.
        ValueError: the file holds none, or it isn't UTF-8.
    """
    token = read_regular(path, _LARGEST_TOKEN_FILE).decode().strip()
    if not 0 < len(token) <= 4096:
        raise ValueError(f"{path} holds no token of 1 to 4096 characters")
    return token


def read_token(path: str) -> str:
    """A token that fits into a header field (RFC 9110 §5.5); raises as `read_secret`."""
    token = read_secret(path)
    if re.fullmatch(r"[!-~]+", token) is None:
        raise ValueError(f"{path}: a token is visible ASCII characters without spaces")
    return token


def _refuse_irregular(path: str | os.PathLike[str], about: os.stat_result, most: int) -> None:
    said = ""
    if stat.S_ISDIR(about.st_mode):
        said = "is a directory"
    elif not stat.S_ISREG(about.st_mode):
        said = "is no regular file; it is read again at a reload, which a pipe or device doesn't allow"
    elif about.st_size > most:
        said = f"is larger than {most >> 10} KiB"
    if said:
        raise OSError(errno.EINVAL, said, os.fspath(path))
