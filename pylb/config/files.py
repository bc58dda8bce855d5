"""The files that a configuration names: read without ever waiting for one, and whether they have changed.

Above `model`, below `tls` and `trials`. The supervisor reads these files while it watches its workers, so
only regular files of a bounded size are read: a pipe or a device could keep it waiting for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from controller.client import client_tls
from pylb.config.model import Config, Controller, Discover

LARGEST_PEM = 16 * 1024 * 1024
"""Bytes; the system's bundle of CAs is a quarter of a MiB."""

Fingerprint = tuple[tuple[str, int, int], ...]
"""Name, time of the last change (ns) and size of files."""


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


def require_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError unless a library may be told to read this file, which it does without such care."""
    _refuse_irregular(path, os.stat(path), LARGEST_PEM)


def _token(path: str) -> str:
    token = read_regular(path, 65536).decode().strip()
    if not 0 < len(token) <= 4096:
        raise ValueError(f"{path} holds no token of 1 to 4096 characters")
    return token


def controller_token(section: Controller) -> str:
    """The token that the controller asks for; raises OSError or ValueError where the file is no good."""
    return "" if section.token_file is None else _token(section.token_file)


def admin_token(config: Config) -> str | None:
    """The token that an admin address on TCP asks for, if there is one; raises as `controller_token`."""
    return None if config.admin_token_file is None else read_token(config.admin_token_file)


def source_token(section: Discover) -> str:
    """The token that a URL is asked with for servers; raises as `controller_token`."""
    return "" if section.token_file is None else read_token(section.token_file)


def admin_read_token(config: Config) -> str | None:
    """The token with which a client of the admin address may read; raises as `controller_token`."""
    return None if config.admin_read_token_file is None else read_token(config.admin_read_token_file)


def read_token(path: str) -> str:
    """A token that fits into a header field; raises as `controller_token`."""
    token = _token(path)
    if re.fullmatch(r"[!-~]+", token) is None:
        raise ValueError(f"{path}: a token is visible ASCII characters without spaces")
    return token


def controller_tls(section: Controller) -> ssl.SSLContext | None:
    """TLS to the controller; raises OSError (ssl.SSLError is one) where a file is no good."""
    for path in (section.tls_ca, section.tls_cert, section.tls_key):
        if path is not None:
            require_regular(path)
    return client_tls(section.tls_ca, section.tls_cert, section.tls_key) if section.tls_ca else None


def _paths(config: Config) -> Iterator[Path]:
    for frontend in config.frontends:
        if frontend.tls is not None:
            for place in map(Path, frontend.tls.certificates):
                yield place
                yield from _below(place)
            if frontend.tls.client_ca is not None:
                yield Path(frontend.tls.client_ca)
    for backend in config.backends:
        if backend.tls is not None:
            for name in (backend.tls.ca, backend.tls.certificate, backend.tls.key):
                if name is not None:
                    yield Path(name)


def _below(place: Path) -> list[Path]:
    """Files and folders that may hold a place's certificates and keys; they may vanish meanwhile."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        if place.is_dir():
            for one in place.iterdir():
                found.append(one)
                if one.is_dir():
                    found += one.iterdir()
        else:
            found += [place.with_name("privkey.pem"), place.with_suffix(".key")]
    return found


def fingerprint(config: Config) -> Fingerprint:
    """Of all TLS files; it differs when one was renewed."""
    found = []
    for path in sorted(set(_paths(config))):
        try:
            about = os.stat(path)
        except OSError:
            continue
        found.append((str(path), about.st_mtime_ns, about.st_size))
    return tuple(found)
