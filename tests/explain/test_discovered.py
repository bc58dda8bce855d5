"""A backend whose servers are looked for has none when a request is explained."""

from __future__ import annotations

from pylb.config.load import from_document
from pylb.explain.dryrun import DryRun
from pylb.explain.request import Request


def test_what_would_be_found_answers() -> None:
    front = {"name": "f", "bind": "127.0.0.1:80", "backend": "b"}
    source = {"dns": "app.internal:8080"}
    config = from_document({"frontend": [front], "backend": [{"name": "b", "discover": [source]}]})
    outcome = DryRun(config).ask(Request("http://a.example/", "GET", [], "10.0.0.1"))
    assert (outcome.backend, outcome.servers) == ("b", ("any of dns app.internal:8080",))
