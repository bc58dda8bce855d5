"""Addresses with a range of ports, and servers without one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.config.address import CLIENTS_PORT, Address, each_port, parse_server
from pylb.config.load import ConfigError, quick


def test_a_range_is_a_bind_for_each_port() -> None:
    config = quick(["127.0.0.1:8000-8002", "[::1]:1-1", "unix:/a:1-2"], ["10.0.0.1:80"])
    assert [str(bind) for bind in config.frontends[0].bind] == [
        *("127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002", "[::1]:1", "unix:/a:1-2")
    ]


@pytest.mark.parametrize(
    ("bind", "says"),
    [
        ("*:8002-8000", "--bind: 8002-8000 is no range of ports from 1 to 65535, the lower one first"),
        ("*:0-3", "--bind: 0-3 is no range"),
        ("*:65535-65536", "--bind: 65535-65536 is no range"),
        ("*:1-1025", "--bind: 1-1025 are 1025 ports, at most 1024"),
        ("a b:1-2", "--bind: 'a b' is not a host name"),
        ("*:1-", "--bind: '*:1-' is not an address"),
    ],
)
def test_what_is_no_range(bind: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        quick([bind], ["10.0.0.1:80"])
    assert caught.value.problems[0].startswith(says), caught.value.problems


def test_ranges_are_in_each_others_way() -> None:
    with pytest.raises(ConfigError, match=r"127.0.0.1:12 is bound by frontend\[0\].bind\[0\] \(0.0.0.0:12\)"):
        quick(["*:10-12", "127.0.0.1:12-13"], ["10.0.0.1:80"])


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1", "10.0.0.1", CLIENTS_PORT),
        ("[::1]", "::1", CLIENTS_PORT),
        ("app.internal", "app.internal", CLIENTS_PORT),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("[::1]:80", "::1", 80),
    ],
)
def test_a_server_without_a_port(text: str, host: str, port: int) -> None:
    address = parse_server(text)
    assert (address.host, address.port, str(address)) == (host, port, text)


@pytest.mark.parametrize("text", ["", "*", "10.0.0", "::1", "[x]", "a b", ":", "[]", "]"])
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ValueError, match=".+"):
        parse_server(text)


@given(st.text(max_size=30) | st.from_regex(r"\A.*:\d*-\d*\Z"))
def test_any_text_is_an_address_or_a_clear_mistake(text: str) -> None:
    for read in (parse_server, each_port):
        try:
            found = read(text)
        except ValueError as error:
            assert str(error)
        else:
            assert not isinstance(found, Address) or parse_server(str(found)) == found
