"""The files that a configuration names: whether they can be used, and whether they have changed.

Above `model` and `regular`, below `load`. TLS files are tried with `pylb.net.tls`, as they are used later.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from controller.client import client_tls
from pylb.config import identity
from pylb.config.model import Backend, Config, Controller
from pylb.config.regular import read_secret, read_token, require_regular

Fingerprint = tuple[tuple[str, int, int], ...]
"""Name, time of the last change (ns) and size of files."""


def problems(config: Config) -> list[str]:
    """One line for each certificate, key, CA, token, user or group that can't be used, with the key's path.

    They are found here, before a process is forked that would need the file or the name.
    """
    from pylb.net.tls import server_context

    found: list[str] = []

    def tried(key: str, use: Callable[[], object]) -> None:
        try:
            use()
        except Exception as error:  # ssl and cryptography have many kinds
            found.append(f"{key}: {_said(error)}")

    for number, frontend in enumerate(config.frontends):
        if frontend.tls is not None:
            tried(f"frontend[{number}].tls", partial(server_context, frontend.tls))
    for number, backend in enumerate(config.backends):
        if backend.tls is not None:
            tried(f"backend[{number}].tls", partial(_try_client, backend))
    tried("controller.token_file", lambda: controller_token(config.controller))
    tried("controller.tls_ca", lambda: controller_tls(config.controller))
    tried("admin_token_file", lambda: admin_token(config))
    return found + identity.problems(config)


def _said(error: Exception) -> str:
    """What an exception says; of the system's own without the number."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error) or type(error).__name__


def _try_client(backend: Backend) -> None:
    """Begin TLS as to each server: the library judges the names only then."""
    from pylb.net.tls import client_context

    assert backend.tls is not None
    context = client_context(backend.tls, backend.http2)
    for server in backend.servers:
        name = backend.tls.name or server.address.host
        if not name:
            raise ValueError(f"name must be set, as {server.address} has no host name")
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)


def controller_token(section: Controller) -> str:
    """The token that the controller asks for; raises OSError or ValueError where the file is no good."""
    return "" if section.token_file is None else read_secret(section.token_file)


def admin_token(config: Config) -> str | None:
    """The token that an admin address on TCP asks for, if there is one; raises as `controller_token`."""
    return None if config.admin_token_file is None else read_token(config.admin_token_file)


def controller_tls(section: Controller) -> ssl.SSLContext | None:
    """TLS to the controller; raises OSError (ssl.SSLError is one) where a file is no good."""
    for path in (section.tls_ca, section.tls_cert, section.tls_key):
        if path is not None:
            require_regular(path)
    return client_tls(section.tls_ca, section.tls_cert, section.tls_key) if section.tls_ca else None


def _paths(config: Config) -> Iterator[Path]:
    for frontend in config.frontends:
        if frontend.tls is not None:
            place = Path(frontend.tls.certificates)
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
