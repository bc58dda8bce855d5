"""What only the supervisor can read: certificates, keys, tokens and maps, as its children need them.

A bottom floor of the supervisor: it knows the configuration, and no process.
"""

from __future__ import annotations

import secrets
import ssl
import time
from dataclasses import dataclass, field

from pylb.config import changes, checked, routing, stickiness
from pylb.config.files import (
    admin_read_token,
    admin_token,
    controller_tls,
    controller_token,
    source_token,
)
from pylb.config.model import Config
from pylb.config.tls import ListenerTls, Sessions, client_context, listeners_tls, source_context
from pylb.control.sources.source import Access
from pylb.rules.maps import Map

# The same for all generations.
_RANDOM = secrets.token_bytes(32)
_SESSIONS = Sessions()


@dataclass(frozen=True)
class Secrets:
    """One generation's; made before the fork, since its processes may have no right to the files."""

    listeners: dict[str, ListenerTls] = field(default_factory=dict)
    """By bind."""
    backends: dict[str, ssl.SSLContext] = field(default_factory=dict)
    """By name; for connections to servers."""
    upgrades: dict[str, ssl.SSLContext] = field(default_factory=dict)
    """Of backends with HTTP/2, for HTTP/1.1: upgrades that their servers take in no other way."""
    controller_token: str = ""
    controller_tls: ssl.SSLContext | None = None
    admin_token: str | None = None
    admin_read_token: str | None = None
    maps: dict[str, Map] = field(default_factory=dict)
    """Of the rules, by name."""
    bodies: dict[str, bytes] = field(default_factory=dict)
    """What the files of answers and error pages hold, by their path."""
    sticky: dict[str, bytes] = field(default_factory=dict)
    """Of the values of sticky cookies, by backend."""
    checks: dict[str, ssl.SSLContext] = field(default_factory=dict)
    """By the name of a backend; for checks of its servers."""
    sources: dict[tuple[str, str], Access] = field(default_factory=dict)
    """Of servers that are discovered, by backend and source."""


def read_secrets(config: Config) -> Secrets:
    """Read all files.

    Raises:
        OSError: one can't be read or used.
    """
    try:
        return Secrets(
            listeners_tls(config, _SESSIONS, time.monotonic()),
            {
                backend.name: client_context(backend.tls, backend.http2)
                for backend in config.backends
                if backend.tls is not None
            },
            {
                backend.name: client_context(backend.tls)
                for backend in config.backends
                if backend.tls is not None and backend.http2
            },
            controller_token(config.controller),
            controller_tls(config.controller),
            admin_token(config),
            admin_read_token(config),
            routing.read_maps(config),
            changes.read_bodies(config),
            stickiness.secrets(config, _RANDOM),
            checked.contexts(config),
            {
                (backend.name, source.name): Access(source_token(source), source_context(source))
                for backend in config.backends
                for source in backend.discover
                if source.http is not None
            },
        )
    except ValueError as error:
        raise OSError(str(error)) from None
