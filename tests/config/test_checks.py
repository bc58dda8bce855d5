"""``[backend.check]``: short forms, defaults, and what can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pylb.config import checked
from pylb.config.load import ConfigError, from_document, with_files
from pylb.config.model import Config


def config(check: Any, **keys: Any) -> Config:
    """One backend with a check; ``server`` and other keys of it may be given."""
    backend = {"name": "b", "server": "127.0.0.1:80", "check": check} | keys
    document = {"frontend": [{"name": "f", "bind": "127.0.0.1:8080", "backend": "b"}], "backend": [backend]}
    return from_document(document)


def spoken(check: Any, **keys: Any) -> tuple[str, bool, bool, str]:
    """Type, TLS, HTTP/2 and PROXY header of a check."""
    backend = config(check, **keys).backends[0]
    assert backend.check is not None
    return (
        checked.type_of(backend, backend.check),
        checked.has_tls(backend, backend.check),
        checked.is_http2(backend, backend.check),
        checked.sends_proxy(backend, backend.check),
    )


TLS: dict[str, Any] = {"tls": {"verify": False}}
PROXY = {"send_proxy": "v2"}


@pytest.mark.parametrize(
    ("check", "keys", "expected"),
    [
        (True, {}, ("tcp", False, False, "off")),
        ({}, {}, ("tcp", False, False, "off")),
        ("/health", {}, ("http", False, False, "off")),
        ({"status": "2xx"}, {}, ("http", False, False, "off")),
        (True, TLS, ("tls", True, False, "off")),
        ("/health", TLS, ("http", True, False, "off")),
        ("/health", TLS | {"http2": True}, ("http", True, True, "off")),
        ({"type": "tcp"}, TLS, ("tcp", False, False, "off")),
        ({"type": "tls"}, {}, ("tls", True, False, "off")),
        ({"type": "redis", "tls": True}, {}, ("redis", True, False, "off")),
        ({"type": "grpc"}, {}, ("grpc", False, True, "off")),
        (True, PROXY, ("tcp", False, False, "v2")),
        ({"port": 81}, TLS | PROXY, ("tcp", False, False, "off")),
        ({"path": "/x", "port": 81}, TLS | PROXY | {"http2": True}, ("http", False, False, "off")),
        ({"port": 81, "tls": True, "send_proxy": True}, TLS | PROXY, ("tls", True, False, "v2")),
        ({"send_proxy": False}, PROXY, ("tcp", False, False, "off")),
    ],
)
def test_what_is_spoken(check: Any, keys: dict[str, Any], expected: tuple[str, bool, bool, str]) -> None:
    assert spoken(check, **keys) == expected


def test_false_is_no_check() -> None:
    assert config(False).backends[0].check is None


def test_a_server_can_be_left_out_and_have_a_port_of_its_own() -> None:
    servers = [
        {"address": "127.0.0.1:80", "check": False},
        {"address": "127.0.0.1:80", "check_port": 82},
        {"address": "[::1]:80"},
        {"address": "unix:/run/s"},
    ]
    backend = config({"path": "/", "port": 81}, server=servers).backends[0]
    assert backend.check is not None
    assert checked.check_of(backend, backend.servers[0]) is None
    addresses = [str(checked.target(server, backend.check)) for server in backend.servers[1:]]
    assert addresses == ["127.0.0.1:82", "[::1]:81", "unix:/run/s"]
    hosts = [
        checked.settings(backend, backend.check, server, False).request.host
        for server in backend.servers[1:]
    ]  # fmt: skip
    assert hosts == ["127.0.0.1:82", "[::1]:81", "localhost"]


@pytest.mark.parametrize(
    ("check", "mistake"),
    [
        ({"interval": 0}, "backend[0].check.interval: input should be greater than 0"),
        ({"fall": 0}, "backend[0].check.fall: input should be greater than or equal to 1 (got 0)"),
        ({"rise": True}, "backend[0].check.rise: expected a number (got True)"),
        ({"type": "http2"}, "backend[0].check.type: input should be 'tcp', 'tls', 'http', 'grpc', 'agent', "),
        ("health", "backend[0].check.path: string should match pattern"),
        ({"uri": "/"}, "backend[0].check.uri: unknown key; allowed: body, body_regex, "),
        ({"status": "700"}, "backend[0].check.status[0]: "),
        (
            {"type": "redis", "path": "/"},
            'backend[0].check: path needs type = "http"; this check is "redis"',
        ),
        ({"service": "a"}, 'backend[0].check: service needs type = "grpc"; this check is "tcp"'),
        ({"user": "a"}, 'backend[0].check: user needs type = "postgresql" or type = "mysql"; this check'),
        ({"method": "HEAD", "body": "ok"}, "backend[0].check: a response to HEAD has no body; use method"),
        ({"headers": {"X y": "a"}}, "backend[0].check: headers: 'X y' is no name of a field"),
        ({"headers": {"X": "a\r\nY: b"}}, "backend[0].check: headers: the value of X has other characters"),
        ({"headers": {"Content-Length": "1"}}, "backend[0].check: headers: Content-Length is pylb's own"),
        ({"type": "tls", "tls": False}, 'backend[0].check: tls = false and type = "tls" contradict'),
        (3, "backend[0].check: expected a table"),
    ],
)
def test_mistakes(check: Any, mistake: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(check)
    assert [problem[: len(mistake)] for problem in error.value.problems] == [mistake]


@pytest.mark.parametrize(
    ("check", "server", "mistake"),
    [
        ({"body_regex": "("}, "127.0.0.1:80", "backend[0].check.body_regex: no regular expression that RE2"),
        (True, "127.0.0.1", "backend[0].check.port: server s1 has no port; set it here, or as its check_p"),
    ],
)
def test_mistakes_that_are_found_when_the_check_is_made(check: Any, server: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_files(config(check, server=server))
    assert [problem[: len(mistake)] for problem in error.value.problems] == [mistake]


def test_a_server_without_a_port_is_checked_at_one_that_is_given() -> None:
    with_files(config({"port": 80}, server="127.0.0.1"))


def test_a_regular_expression_takes_linear_time(tmp_path: Path) -> None:
    backend = config({"body_regex": "(a*)*b"}).backends[0]
    assert backend.check is not None
    search = checked.settings(backend, backend.check, backend.servers[0], False).expected.search
    assert search is not None
    assert not search(b"a" * 65536) and search(b"aab")
