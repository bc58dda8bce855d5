"""Tests in a configuration: what is not as expected is a mistake, and says how it came."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pylb.cli import app
from pylb.config.load import ConfigError
from pylb.explain.tested import load_tested
from tests.explain.test_explain import FILE
from tests.test_cli import pylb


def mistakes(folder: Path, tests: str) -> list[str]:
    """What is wrong with the file after these tests were added; nothing where all is good."""
    file = folder / "pylb.toml"
    file.write_text(f"{FILE}# tests\n{tests}")
    try:
        load_tested(file)
    except ConfigError as error:
        return [line.replace(f"{folder}/", "") for line in error.located]
    return []


@pytest.mark.parametrize(
    "test",
    [
        'url = "http://shop.example/cart"\nexpect = { backend = "stable" }',
        'url = "http://shop.example/cart"\nexpect = { backend = "canary" }',  # by chance
        'url = "http://a/admin"\nfrom = "10.0.0.1"\nexpect = { backend = "site", path = "/admin" }',
        'url = "http://a/admin"\nexpect = { backend = "admin", server = "s1", drop = false }',
        'url = "http://a/?q"\nexpect = { path = "/?q" }',
        'url = "http://a/?q"\nexpect = { path = "/" }',
        'url = "http://a/b"\nfrontend = "old"\nexpect = { status = 308, '
        'response_headers = { location = "https://a/b" } }',
        'url = "http://a/%2f"\nexpect.status = 400',
        'url = "http://a/"\nmethod = "POST"\nheaders = { X-A = ["1", "2"], Host = "b" }\n'
        'expect.request_headers = { x-a = ["1", "2"], X-Forwarded-Host = true, X-B = false, Host = "b" }',
    ],
)
def test_as_expected(tmp_path: Path, test: str) -> None:
    assert mistakes(tmp_path, f"[[test]]\n{test}\n") == []


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (
            'url = "http://shop.example/admin"\nfrom = "10.0.0.1"\nexpect.backend = "admin"',
            "pylb.toml:52: test[0].expect.backend: GET 'http://shop.example/admin': expected 'admin', got "
            "backend 'site' (no rule of web has ended it; rule[0] has not matched: not, pylb.toml:7)",
        ),
        (
            'url = "http://shop.example/cart"\nexpect = {\n backend = "site" }',
            "pylb.toml:51: not valid TOML",
        ),
        (
            'url = "http://shop.example/cart"\nmethod = "POST"\nexpect = { backend = "site" }',
            "pylb.toml:52: test[0].expect.backend: POST 'http://shop.example/cart': expected 'site', got "
            "one of 'stable', 'canary' (by rule[1], pylb.toml:10)",
        ),
        (
            'url = "http://a/b"\n[test.expect]\nstatus = 301\npath = "/"\n',
            "pylb.toml:52: test[0].expect.status: GET 'http://a/b': expected 301, got backend 'site' "
            "(no rule of web has ended it)",
        ),
        (
            'url = "http://a/b?c"\nexpect.path = "/?c"',
            "pylb.toml:51: test[0].expect.path: GET 'http://a/b?c': expected '/?c', got '/b?c' (",
        ),
        (
            'url = "http://a/b"\nexpect.server = "s1"',
            "pylb.toml:51: test[0].expect.server: GET 'http://a/b': expected 's1', got one of s1, s2 (",
        ),
        (
            'url = "http://a/b"\nexpect.request_headers = { X-Forwarded-For = false, X = "1", Y = true }',
            "pylb.toml:51: test[0].expect.request_headers.X-Forwarded-For: GET 'http://a/b': expected none, "
            "got '127.0.0.1' (no rule",
        ),
        ('url = "http://a/b"\nexpect.drop = true', "pylb.toml:51: test[0].expect.drop: GET 'http://a/b': ex"),
        ('url = "a/b"\nexpect.drop = true', "pylb.toml:50: test[0].url: 'a/b' is no URL"),
        ('url = "http://a/b"\nfrom = "x"\nexpect.drop = true', "pylb.toml:51: test[0].from: 'x' is no IP"),
        ('url = "http://a/b"\nfrontend = "x"\nexpect.drop = true', "pylb.toml:51: test[0].frontend: no fron"),
        ('url = "http://a/b"\nheaders = { "a b" = "" }\nexpect.drop = true', "pylb.toml:51: test[0].headers"),
        ('url = "http://a/b"\nexpect = {}', "pylb.toml:51: test[0].expect: say what is expected: backend, "),
        ('url = "http://a/b"', "pylb.toml:49: test[0].expect: missing"),
    ],
)
def test_what_is_not_as_expected_names_the_line_and_how_it_came(tmp_path: Path, test: str, says: str) -> None:
    found = mistakes(tmp_path, f"[[test]]\n{test}\n")
    assert found[0].startswith(says), found


def test_check_counts_them_and_serve_does_not_start(tmp_path: Path) -> None:
    assert mistakes(tmp_path, '[[test]]\nurl = "http://a/"\nexpect.backend = "site"\n') == []
    file = str(tmp_path / "pylb.toml")
    checked = CliRunner().invoke(app, ["check", "-c", file])
    assert checked.exit_code == 0 and checked.stdout.endswith(" 1 tests\n")
    os.truncate(file, len(FILE))
    assert len(mistakes(tmp_path, '[[test]]\nurl = "http://a/"\nexpect.backend = "admin"\n')) == 1
    said = "test[0].expect.backend: GET 'http://a/': expected 'admin', got backend 'site'"
    checked = CliRunner().invoke(app, ["check", "-c", file])
    assert checked.exit_code == 1 and f"{file}:51: {said}" in checked.stderr
    done = pylb("serve", "-c", file)
    assert done.returncode == 2 and f"pylb: {file}:51: {said}" in done.stderr
