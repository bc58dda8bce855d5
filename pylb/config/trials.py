"""Whether what a configuration names outside itself can be used: files of TLS, tokens, user and group.

Everything is tried as the supervisor will use it, so that it is refused before a process is forked that would
need it. It knows the model, the files and TLS, and not how a configuration is written (`pylb.config.load`).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from pylb.config import changes, checked, identity, routing, stickiness
from pylb.config.files import (
    admin_read_token,
    admin_token,
    controller_tls,
    controller_token,
    source_token,
)
from pylb.config.logtarget import targets, try_out
from pylb.config.model import Backend, Config, Discover
from pylb.config.tls import client_context, listener_tls, source_context


def problems(config: Config) -> list[str]:
    """One line for each certificate, key, CA, token, user or group that is no good, with the key's path."""
    found: list[str] = []

    def tried(key: str, use: Callable[[], object]) -> None:
        try:
            use()
        except Exception as error:  # ssl and cryptography have many kinds
            found.append(f"{key}: {_said(error)}")

    for number, frontend in enumerate(config.frontends):
        if frontend.tls is not None:
            tried(f"frontend[{number}].tls", partial(listener_tls, frontend.tls))
    for number, backend in enumerate(config.backends):
        if backend.tls is not None:
            tried(f"backend[{number}].tls", partial(_try_client, backend))
        if backend.sticky is not None:
            tried(f"backend[{number}].sticky.secret_file", partial(stickiness.secret, backend.sticky))
        for position, source in enumerate(backend.discover):
            key = f"backend[{number}].discover[{position}]"
            tried(f"{key}.ca", partial(source_context, source))
            tried(f"{key}.token_file", partial(source_token, source))
            tried(f"{key}.function", partial(_findable, source))
    for key, target in targets(config):
        tried(key, partial(try_out, target))
    found += _rules(config)
    found += checked.problems(config)
    tried("controller.token_file", lambda: controller_token(config.controller))
    tried("controller.tls_ca", lambda: controller_tls(config.controller))
    tried("admin_token_file", lambda: admin_token(config))
    tried("admin_read_token_file", lambda: admin_read_token(config))
    return found + identity.problems(config)


def _rules(config: Config) -> list[str]:
    """What is wrong with maps, rules and the files of answers."""
    try:
        bodies = changes.read_bodies(config)
        maps = routing.read_maps(config)
    except routing.Unusable as error:
        return [str(error)]
    found = []
    for number, frontend in enumerate(config.frontends):
        try:
            routing.compiled(config, frontend, maps, bodies=bodies)
        except routing.Unusable as error:
            found.append(f"frontend[{number}].{error}")
    return found


def _said(error: Exception) -> str:
    """What an exception says; of the system's own without the number."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error) or type(error).__name__


def _findable(source: Discover) -> None:
    """Raise ValueError unless a function's module is on Python's path; none of it is run."""
    if source.function is None:
        return
    name = source.function.partition(":")[0].partition(".")[0]
    try:
        found = find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise ValueError(f"no module {name!r} on Python's path; set PYTHONPATH to the folder that it is in")


def _try_client(backend: Backend) -> None:
    """Begin TLS as to each server: the library judges the names only then."""
    assert backend.tls is not None
    context = client_context(backend.tls, backend.http2)
    for server in backend.servers:
        name = backend.tls.name or server.address.host
        if not name:
            raise ValueError(f"name must be set, as {server.address} has no host name")
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
