"""What other workers lack of what a leaving one has."""

from __future__ import annotations

from typing import Any

from pylb.config.load import from_document
from pylb.config.model import Config
from pylb.supervisor.generations import lacking


def _config(backends: list[str], **frontends: str) -> Config:
    """``frontends``: bind's port, with a letter before it, by the frontend's name."""
    document: dict[str, Any] = {
        "frontend": [
            {"name": name, "bind": f"127.0.0.1:{port[1:]}", "backend": backends[0]}
            for name, port in frontends.items()
        ],
        "backend": [{"name": name, "server": ["127.0.0.1:1"]} for name in backends],
    }
    return from_document(document)


def test_a_bind_of_another_frontend_and_a_backend_that_is_gone() -> None:
    here = _config(["a", "b"], f="p1", g="p2")
    assert lacking(here, [here]) == ([], [])
    assert lacking(here, []) == ([], [])
    assert lacking(here, [_config(["a", "c"], f="p1", h="p2")]) == (["127.0.0.1:2"], ["b"])
    # A bind that isn't there at all is in no list of binds either.
    assert lacking(here, [_config(["b"], f="p1"), here]) == ([], ["a"])
