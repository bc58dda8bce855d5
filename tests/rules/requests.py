"""Requests for rules, and a frontend's rules made of TOML, without sockets."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import Any

from pylb.config import routing
from pylb.config.load import from_document
from pylb.config.model import Config
from pylb.http.request import HeadLimits, RequestHead
from pylb.rules.decision import Rules
from pylb.rules.maps import Map
from pylb.rules.view import View


@dataclass
class Facts:
    """What is known of a client; as `pylb.rules.view.Known`."""

    source: tuple[str, int] | None = ("192.0.2.9", 5000)
    bind: str = "127.0.0.1:80"
    protocol: str = "HTTP/1"
    tls: dict[str, bytes] = field(default_factory=dict)
    tls_version: str = ""
    subject: bytes = b""
    alpn: tuple[bytes, ...] = ()


BACKENDS = ("site", "api", "shop", "admin", "canary", "other", "app-a", "app-b")


def configuration(text: str, **frontend: Any) -> Config:
    """A configuration whose frontend has these ``[[rule]]`` tables, and which has these ``[[map]]`` ones."""
    document = tomllib.loads(text)
    front = {"name": "web", "bind": "127.0.0.1:80", "backend": "site", "rule": document.pop("rule", [])}
    document["frontend"] = {**front, **frontend}
    document["backend"] = [{"name": name, "server": "127.0.0.1:9"} for name in BACKENDS]
    return from_document(document)


def rules_of(text: str, maps: dict[str, bytes] | None = None, **frontend: Any) -> Rules:
    """The rules of that frontend; ``maps`` are the texts of the maps' files."""
    config = configuration(text, **frontend)
    tables: dict[str, Map] = routing.empty_maps(config)
    for name, held in (maps or {}).items():
        tables[name].read(held)
    rules = routing.compiled(config, config.frontends[0], tables)
    assert rules is not None
    return rules


def head_of(
    target: str = "/",
    *fields: str,
    method: str = "GET",
    host: str = "example.org",
    trusted: bool = False,
    version: str = "HTTP/1.1",
) -> RequestHead:
    """A request's head, read."""
    trusts = (lambda address: False) if trusted else None
    head = RequestHead(b"192.0.2.9", b"127.0.0.1:80", b"http", HeadLimits(), trusts=trusts)
    lines = [f"{method} {target} {version}", f"Host: {host}", *fields, "", ""]
    head.read("\r\n".join(lines).encode("latin-1"))
    return head


def seen(rules: Rules, head: RequestHead, facts: Facts | None = None) -> View:
    """A request as these rules see it."""
    view = rules.view()
    view.begin(head, facts or Facts())
    return view
