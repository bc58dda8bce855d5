from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.config.address import parse_address
from pylb.config.model import Backend, Server
from pylb.net import channel, messages
from pylb.net.serverlists import Listed, Reader, entry_of, packets, server_of

STATIC = Server(name="s1", address=parse_address("10.0.0.1:80"), weight=3, slow_start=2.0)
BACKEND = Backend(name="b", servers=(STATIC,))


def told(servers: list[Listed], version: int = 7) -> list[dict[str, object]]:
    """The packets as they come out of a channel."""
    found = [json.loads(json.dumps(one)) for one in packets("b", version, servers)]
    for known in (messages.TO_WORKER, messages.TO_CONTROL):
        assert [messages.wrong(one, known) for one in found] == [""] * len(found)
    return found


SERVERS = st.builds(
    Server,
    name=st.text(min_size=1, max_size=20),
    address=st.sampled_from(["10.0.0.1:80", "[::1]:80", "unix:/a b", "a.example:1", "a.example"]).map(
        lambda text: Server.model_validate({"address": text}).address
    ),
    weight=st.integers(0, 256),
    backup=st.booleans(),
    slow_start=st.sampled_from([0.0, 2.5]),
    fill=st.integers(0, 9),
)


@given(st.lists(SERVERS, max_size=5))
def test_a_list_comes_through(servers: list[Server]) -> None:
    listed = [Listed(one, number) for number, one in enumerate(servers)]
    reader = Reader({"b": BACKEND})
    (packet,) = told(listed)
    assert reader.take(packet) == ("b", listed)


def test_a_server_of_the_file_is_that_of_the_file() -> None:
    entry = entry_of(Listed(STATIC, 4))
    assert server_of(entry, BACKEND) is STATIC
    moved = server_of(entry | {"address": "10.9.9.9:81"}, BACKEND)
    assert (moved.slow_start, str(moved.address)) == (2.0, "10.9.9.9:81")
    assert server_of(entry | {"weight": 9}, BACKEND) == STATIC.model_copy(update={"weight": 9})
    with pytest.raises(ValueError):
        server_of(entry | {"name": "x", "weight": 1000}, BACKEND)


def test_a_long_list_comes_in_parts_and_what_stays_is_the_same_object() -> None:
    listed = [Listed(Server(name="n" * 200 + str(n), address=STATIC.address), n) for n in range(2000)]
    parts = told(listed)
    assert len(parts) > 3 and all(len(json.dumps(one)) < channel.MAX_PACKET for one in parts)
    reader = Reader({"b": BACKEND})
    found = [reader.take(one) for one in parts]
    assert found[:-1] == [None] * (len(parts) - 1)
    assert found[-1] == ("b", listed)
    again = [reader.take(one) for one in told(listed[1:])][-1]
    assert again is not None and found[-1] is not None
    assert all(one is other for one, other in zip(again[1], found[-1][1][1:], strict=True))


def test_a_list_of_which_a_packet_is_missing_is_none() -> None:
    listed = [Listed(Server(name="n" * 200 + str(n), address=STATIC.address), n) for n in range(2000)]
    reader = Reader({"b": BACKEND})
    for one in told(listed)[:2]:
        reader.take(one)
    assert reader.take(told(listed)[-1]) is None
    assert reader.take(told(listed[:1])[0]) == ("b", listed[:1])
    assert reader.take({**told(listed[:1])[0], "backend": "unknown"}) is None
