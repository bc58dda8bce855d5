"""The name in real ClientHellos, in any pieces and records; other bytes never do harm."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylb.net.clienthello import ClientHello, NotTls, client_hello


def hello(name: str | None) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.set_alpn_protocols(["h2", "http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [("example.org", "example.org"), ("A.Very.Long-Name.example", "a.very.long-name.example"), (None, "")],
)
def test_the_name_is_found_as_soon_as_the_hello_is_there(given_name: str | None, expected: str) -> None:
    data = hello(given_name)
    for cut in range(len(data)):
        assert client_hello(data[:cut]) is None
    expected_hello = ClientHello(expected, (b"h2", b"http/1.1"))
    assert client_hello(data) == expected_hello
    assert client_hello(data + b"more") == expected_hello


@settings(max_examples=50)
@given(st.integers(1, 300))
def test_a_hello_may_come_in_several_records(size: int) -> None:
    message = HELLO[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    data = b"".join(HELLO[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)
    assert client_hello(data) == ClientHello("example.org", (b"h2", b"http/1.1"))
    assert client_hello(data[:-1]) is None


@given(st.binary(max_size=400))
def test_other_bytes_are_refused_or_waited_for(data: bytes) -> None:
    for start in (b"", HELLO[:5], HELLO[:48]):
        try:
            found = client_hello(start + data)
        except NotTls:
            continue
        assert found is None or isinstance(found, ClientHello)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_hello_is_refused_or_read(at: int, value: int) -> None:
    damaged = bytearray(HELLO)
    damaged[at % len(damaged)] = value
    try:
        found = client_hello(bytes(damaged))
    except NotTls:
        return
    assert found is None or isinstance(found, ClientHello)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x16\x02\x00\x00\x05", b"\x16\x03\x01\xff\xff", b"SSH-2.0-x"]
)
def test_no_tls_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(NotTls):
        client_hello(data)


HELLO = hello("example.org")
