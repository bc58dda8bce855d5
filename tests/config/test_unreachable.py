"""Rules that can never match; that none of them ever does is a property in tests/explain."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pylb.cli import app
from pylb.config.unreachable import unreachable
from tests.explain.generated import configuration_of


def said(first: str, second: str, **frontend: Any) -> str:
    """What is said of two rules with these matches; the first has no ending where it is empty."""
    rules = tomllib.loads(f"rule = [{{ {first} }}, {{ match = {{ {second} }}, backend = 'api' }}]")["rule"]
    found = list(unreachable(configuration_of(rules, **frontend), lambda at: f"line {at[-1]}"))
    assert all(line.startswith("frontend[0].rule[1]: can never match, since ") for line in found)
    return found[0].partition("since ")[2] if found else ""


COVERED = "rule[0] (line 0) comes first and ends all of these requests"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", "host = 'a'"),
        ("host = '*.a'", "host = 'b.a'"),
        ("host = '*.a'", "host = ['*.b.a', 'c.a']"),
        ("path = '/a'", "path = '/a/b', method = 'GET'"),
        ("path = '/a'", "path = '/a/'"),
        ("path = '/a'", "path_exact = ['/a', '/a/b']"),
        ("path = '/'", "path = '/b'"),
        ("path_exact = ['/a', '/b']", "path_exact = '/b'"),
        ("starts_with = '/a'", "starts_with = '/ab'"),
        ("source = '10.0.0.0/8'", "source = '10.1.0.0/16'"),
        ("method = ['GET', 'HEAD']", "method = 'HEAD'"),
        ("header.a = true", "header.a = { prefix = 'x' }, path = '/x'"),
        ("header.a = ['1', '2']", "header.a = '2'"),
        ("path_glob = '*.php'", "path_glob = '*.php'"),
        ("not.source = '10.1.0.0/16'", "not.source = '10.0.0.0/8'"),
        ("any = [{ host = 'a' }, { path = '/b' }]", "path = '/b/c'"),
        ("all = [{ host = 'a' }, { path = '/b' }]", "host = 'a', path = '/b'"),
        ("host = 'a', path = '/b'", "all = [{ host = 'a' }, { path = '/b' }]"),
    ],
)
def test_shadowed(first: str, second: str) -> None:
    assert said(f"match = {{ {first} }}, backend = 'api'", second) == COVERED


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("host = 'a', path = '/'", "host = 'a'"),  # OPTIONS *
        ("host = '*.a'", "host = 'a'"),
        ("host = 'b.a'", "host = '*.a'"),
        ("path = '/a/'", "path = '/a'"),
        ("path = '/a'", "path = '/ab'"),
        ("path = '/a'", "starts_with = '/a/'"),
        ("path = '/a'", "path = ['/a/b', '/c']"),
        ("source = '10.0.0.0/8'", "source = '::1'"),
        ("header.a = '1'", "header.b = '1'"),
        ("header.a = '1'", "header.a = true"),
        ("not.host = 'a'", "host = 'b'"),
    ],
)
def test_not_shadowed(first: str, second: str) -> None:
    assert said(f"match = {{ {first} }}, backend = 'api'", second) == ""


@pytest.mark.parametrize(
    ("match", "why"),
    [
        ("host = 'a', all = { host = '*.b' }", "host can't be both a and *.b"),
        ("path = '/a', path_exact = '/b'", "path /a and path_exact /b exclude each other"),
        ("path = ['/a', '/b'], all = { path = '/c' }", "path /a, /b and path /c exclude each other"),
        ("method = 'GET', all = { method = 'PUT' }", "method can't be both GET and PUT"),
        ("host = 'a.b', not = { host = '*.b' }", "not excludes all that the other keys want"),
        ("tls = true", "this frontend has no tls"),
        ("sni = 'a'", "sni needs tls, which this frontend hasn't"),
        ("port = 443", "this frontend isn't bound to port 443"),
        ("path = '/a', all = { path = '/a/b' }", ""),
        ("host = '*.a', not = { host = 'b.a' }", ""),
        ("port = [443, 80]", ""),
    ],
)
def test_keys_that_exclude_each_other(match: str, why: str) -> None:
    assert said("match = { host = 'z' }, backend = 'api'", match) == why


def test_check_warns_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "pylb.toml"
    file.write_text(
        '[[frontend]]\nname = "f"\nbind = "127.0.0.1:1"\nbackend = "b"\n'
        '[[frontend.rule]]\nbackend = "b"\n[[frontend.rule]]\nmatch.path = "/"\nbackend = "b"\n'
        '[[backend]]\nname = "b"\nserver = "127.0.0.1:2"\n'
    )
    done = CliRunner().invoke(app, ["check", "-c", str(file)])
    assert done.exit_code == 0 and ": ok: " in done.stdout
    assert done.stderr == (
        f"{file}:7: warning: frontend[0].rule[1]: can never match, since rule[0] ({file}:5) comes first and "
        "ends all of these requests\n"
    )
