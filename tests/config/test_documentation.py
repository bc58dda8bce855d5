"""docs/configuration.md and the command line's help say what the model says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pylb.cli import app
from pylb.config import model
from pylb.config.document import sections, with_tables
from pylb.config.keys import Key, all_keys, keys
from pylb.config.load import from_document
from pylb.config.options import OPTIONS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "configuration.md").read_text()
DOCUMENT: dict[str, Any] = tomllib.loads("\n".join(re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)))
KEYS = {".".join(key.path): key for key in all_keys()}


def test_the_example_is_valid() -> None:
    config = from_document(DOCUMENT)
    assert config.frontends[0].body_bytes == 10 * 1024 * 1024
    assert config.frontends[1].sni["a.example.org"] == "app"


@pytest.mark.parametrize("name", ["README.md", "docs/configuration.md"])
def test_the_tables_are_those_of_the_model(name: str) -> None:
    # After a change of the model: make docs
    text = (ROOT / name).read_text()
    assert "<!-- end of " in text
    assert with_tables(text) == text


def test_every_key_is_there() -> None:
    for path, section in sections().items():
        assert f"<!-- keys of {path} -->" in TEXT
        for key in keys(section):
            assert f"\n| `{key.name}` | " in TEXT
    known = {one for one in vars(model).values() if isinstance(one, type) and issubclass(one, model.Section)}
    assert known - {model.Section} == set(sections().values())


@pytest.mark.parametrize("key", KEYS.values(), ids=list(KEYS))
def test_every_key_is_described(key: Key) -> None:
    assert re.fullmatch(r"[A-Z].*\.", key.description)


@pytest.mark.parametrize(
    ("path", "kind", "default"),
    [
        ("timeouts.tunnel", "duration", "3600"),
        ("limits.header_bytes", "size", '"16KiB"'),
        ("limits.header_count", "number from 1 to 100000", "100"),
        ("controller.weight", "number above 0 to 1000", "1"),
        ("frontend.bind", "address, or a list", ""),
        ("frontend.trusted_proxies", "list of networks", "[]"),
        ("frontend.tls.alpn", 'list of `"h2"`, `"http/1.1"`', '["h2", "http/1.1"]'),
        ("frontend.body_bytes", "size", ""),
        ("backend.balance", "algorithm", '"leastconn"'),
        ("frontend", "list of tables", ""),
        ("backend.server", "list of tables or addresses", ""),
        ("backend.http2", "true or false", "false"),
        ("log.level", '`"debug"`, `"info"`, `"warning"` or `"error"`', '"info"'),
        ("admin", "address", ""),
    ],
)
def test_kinds_and_defaults_are_in_the_words_of_the_file(path: str, kind: str, default: str) -> None:
    assert (KEYS[path].kind.one, KEYS[path].default) == (kind, default)


def test_the_help_has_every_option_as_it_is_declared() -> None:
    said = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "240", "NO_COLOR": "1"}).output
    lines = said.splitlines()
    assert len(OPTIONS) == sum(key.option is not None for key in all_keys())  # no flag stands for two keys
    assert {"bind", "server", "balance", "workers", "controller", "admin", "log_format"} <= OPTIONS.keys()
    for option in OPTIONS.values():
        (line,) = (line for line in lines if line.startswith(f"│ {option.option.flag} "))
        assert f" {option.metavar} " in line
        assert f" {option.help} " in line
        assert f"[default: ({option.default})]" in line or not option.default
