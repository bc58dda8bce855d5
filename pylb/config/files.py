"""The files that a configuration names: whether they can be used, and whether they have changed."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

from controller.client import client_tls
from pylb.config import identity
from pylb.config.model import Config, Controller

Fingerprint = tuple[tuple[str, int, int], ...]


def problems(config: Config) -> list[str]:
    """One line for each certificate, key, CA or token that can't be used, with the key's path.

    Found here, before a process is forked that would need them.
    """
    from pylb.net.tls import client_context, server_context

    found = identity.problems(config)
    for number, frontend in enumerate(config.frontends):
        if frontend.tls is not None:
            try:
                server_context(frontend.tls)
            except (OSError, ssl.SSLError, ValueError) as error:
                found.append(f"frontend[{number}].tls: {error}")
    for number, backend in enumerate(config.backends):
        if backend.tls is not None:
            try:
                client_context(backend.tls)
            except (OSError, ssl.SSLError, ValueError) as error:
                found.append(f"backend[{number}].tls: {error}")
    for key, use in (("token_file", controller_token), ("tls_ca", controller_tls)):
        try:
            use(config.controller)
        except (OSError, ValueError) as error:
            found.append(f"controller.{key}: {error}")
    return found


def controller_token(section: Controller) -> str:
    """The token that the controller asks for; raises OSError or ValueError where the file is no good."""
    if section.token_file is None:
        return ""
    token = Path(section.token_file).read_text().strip()
    if not 0 < len(token) <= 4096:
        raise ValueError(f"{section.token_file} holds no token of 1 to 4096 characters")
    return token


def controller_tls(section: Controller) -> ssl.SSLContext | None:
    """TLS to the controller; raises OSError (ssl.SSLError is one) where a file is no good."""
    return client_tls(section.tls_ca, section.tls_cert, section.tls_key) if section.tls_ca else None


def _paths(config: Config) -> Iterator[Path]:
    for frontend in config.frontends:
        if frontend.tls is not None:
            place = Path(frontend.tls.certificates)
            yield place
            if place.is_dir():
                yield from place.iterdir()
            if frontend.tls.client_ca is not None:
                yield Path(frontend.tls.client_ca)
    for backend in config.backends:
        if backend.tls is not None:
            for name in (backend.tls.ca, backend.tls.certificate, backend.tls.key):
                if name is not None:
                    yield Path(name)


def fingerprint(config: Config) -> Fingerprint:
    """Name, time of the last change (ns) and size of each TLS file; differs when one was renewed."""
    found = []
    for path in sorted(_paths(config)):
        try:
            about = os.stat(path)
        except OSError:
            continue
        found.append((str(path), about.st_mtime_ns, about.st_size))
    return tuple(found)
