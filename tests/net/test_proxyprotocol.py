"""PROXY headers: what is built is read back, in any pieces, and nothing else is taken for one."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.net.proxyprotocol import BadProxyHeader, ProxyHeader, build_v1, build_v2, parse

PORTS = st.integers(0, 65535)
V4 = st.tuples(st.ip_addresses(v=4).map(str), PORTS)
V6 = st.tuples(st.ip_addresses(v=6).map(str), PORTS)
PAIRS = st.tuples(V4, V4) | st.tuples(V6, V6)
TLVS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=100)), max_size=5).map(tuple)


@given(PAIRS, TLVS, st.booleans(), st.binary(max_size=50))
def test_what_is_built_is_read_back(
    pair: tuple[tuple[str, int], tuple[str, int]],
    tlvs: tuple[tuple[int, bytes], ...],
    second: bool,
    rest: bytes,
) -> None:
    source, destination = pair
    header = build_v2(source, destination, tlvs) if second else build_v1(source, destination)
    for cut in range(len(header)):
        assert parse(header[:cut]) is None
    read = parse(header + rest)
    assert read is not None
    assert read.length == len(header)
    assert read.source is not None and read.destination is not None
    assert ipaddress.ip_address(read.source[0]) == ipaddress.ip_address(source[0])
    assert (read.source[1], read.destination[1]) == (source[1], destination[1])
    assert read.tlvs == (tlvs if second else ())


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_or_waited_for(data: bytes) -> None:
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", build_v2(None, None)[:12]):
        try:
            read = parse(start + data)
        except BadProxyHeader:
            continue
        assert read is None or 0 < read.length <= len(start + data)


def test_a_mapped_address_is_written_as_the_system_does() -> None:
    for first in ("::ffff:c000:201", "::ffff:192.0.2.1"):
        for build in (build_v1, build_v2):
            read = parse(build((first, 1), ("::FFFF:198.51.100.1", 2)))
            assert read is not None
            assert read.source == ("::ffff:192.0.2.1", 1)
            assert read.destination == ("::ffff:198.51.100.1", 2)


def test_nothing_to_tell() -> None:
    assert parse(build_v1(None, None)) == ProxyHeader(15, None, None)
    assert parse(build_v2(None, ("192.0.2.1", 1))) == ProxyHeader(16, None, None)
    assert parse(build_v1(("192.0.2.1", 1), ("2001:db8::1", 2))) == ProxyHeader(15, None, None)


@pytest.mark.parametrize(
    "rest",
    [
        b"\x00\x00\x00",
        b"\x11\x00\x00",  # addresses are said to follow, and don't
        b"\x11\x00\x04\x01\x02\x03\x04",
        b"\x51\x00\x00",  # no family
        b"\x1f\x00\x00",  # no protocol
        b"\x00\x00\x02\x03\x00",  # half a TLV
        b"\x31" + (216).to_bytes(2, "big") + bytes(216),
    ],
)
def test_of_a_proxys_own_connection_only_the_length_counts(rest: bytes) -> None:
    """The family and all that follows are ignored (§2.2)."""
    header = build_v2(None, None)[:12] + b"\x20" + rest
    assert parse(header + b"GET") == ProxyHeader(len(header), None, None)
    for cut in range(len(header)):
        assert parse(header[:cut]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n",
        b"PROXY " + b"x" * 110,
        build_v2(None, None)[:12] + b"\x31\x11\x00\x00",  # version 3
        build_v2(None, None)[:12] + b"\x22\x11\x00\x00",  # unknown command
        build_v2(None, None)[:12] + b"\x21\x51\x00\x00",  # unknown family
        build_v2(None, None)[:12] + b"\x21\x11\x00\x04\x01\x02\x03\x04",  # too short for two addresses
        build_v2(None, None)[:12] + b"\x21\x11\xff\xff",  # too long
        build_v2(("192.0.2.1", 1), ("192.0.2.2", 2))[:15] + b"\x0e" + bytes(14),  # a TLV cut off
    ],
)
def test_a_broken_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        parse(data)
