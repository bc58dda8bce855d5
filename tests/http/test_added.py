"""What requests get on their way to a server, and what of a client's own fields stays."""

from __future__ import annotations

import re

import pytest

from pylb.http.added import USUAL_NAMES, Sends
from pylb.http.fields import CLIENT_FIELDS
from pylb.http.request import HeadLimits, RequestHead
from tests.http.test_fields import request

PROXIES = (b"10.", b"192.0.2.7")


def sent(sends: Sends, *lines: bytes, trusted: bool = False, times: int = 1) -> list[bytes]:
    """The lines that a server gets of a request with these."""
    one = RequestHead(
        *(b"192.0.2.7", b"h", b"https", HeadLimits(), sends, b"8443", b"Extra: 1\r\n"),
        (lambda address: address.startswith(PROXIES)) if trusted else None,
    )
    for _ in range(times):
        out = one.parse(request([b"Host: a", *lines]))
    return out.split(b"\r\n")[1:-2]


EVERYTHING = Sends(
    frozenset({b"x-real-ip", b"x-forwarded-port", b"x-forwarded-ssl", b"forwarded"}) | USUAL_NAMES, True
)
TOLD = [
    *(b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 8443", b"X-Forwarded-Ssl: on", b"Via: 1.1 pylb"),
    *(b"Extra: 1", b"X-Real-IP: 192.0.2.7", b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Host: a"),
    b'Forwarded: for=192.0.2.7;proto=https;host="a"',
]


def test_each_field_can_be_switched_on_and_off() -> None:
    assert sent(EVERYTHING) == [b"Host: a", *TOLD]
    lines = {b"via": TOLD[3], b"forwarded": TOLD[8]} | {
        line.partition(b":")[0].lower(): line for line in TOLD if line != TOLD[4]
    }
    for name, line in lines.items():
        only = Sends(frozenset() if name == b"via" else frozenset({name}), name == b"via")
        assert sorted(sent(only)) == sorted([b"Host: a", b"Extra: 1", line])
        without = Sends(EVERYTHING.names - {name}, name != b"via")
        assert sent(without) == [b"Host: a", *(one for one in TOLD if one != line)]
    assert sent(Sends(frozenset())) == [b"Host: a", b"Extra: 1"]
    assert sent(Sends()) == [b"Host: a", *(TOLD[place] for place in (0, 4, 6, 7))]


@pytest.mark.parametrize("name", sorted(CLIENT_FIELDS))
@pytest.mark.parametrize("sends", [Sends(), EVERYTHING, Sends(frozenset())], ids=["usual", "all", "none"])
def test_nobody_but_a_trusted_proxy_says_who_a_client_is(name: bytes, sends: Sends) -> None:
    for written in (name, name.title(), name.replace(b"-", b"_")):
        lines = sent(sends, written + b": forged", b"A: b")
        assert lines == sent(sends, b"A: b")
        assert b"A: b" in lines
    lines = sent(sends, name + b": said", trusted=True)
    believed = [line for line in lines if b"said" in line and line.lower().startswith(name + b":")]
    assert len(believed) == (name != b"x-client-cert-subject")
    assert len([line for line in lines if line.lower().startswith(name + b":")]) <= 1


def test_the_real_address_is_the_last_that_is_no_proxys() -> None:
    sends = Sends(frozenset({b"x-real-ip", b"x-forwarded-for"}))
    for before, real in (
        ([], b"192.0.2.7"),
        ([b"198.51.100.1"], b"198.51.100.1"),
        ([b"forged, 198.51.100.1, 10.0.0.1"], b"198.51.100.1"),
        ([b"forged", b"198.51.100.1", b"10.0.0.2,10.0.0.1"], b"198.51.100.1"),
        ([b"10.0.0.1"], b"10.0.0.1"),
        ([b"198.51.100.1:5000, 10.0.0.1:80"], b"198.51.100.1"),
        ([b"[2001:db8::1]:5000"], b"2001:db8::1"),
        ([b"2001:db8::1"], b"2001:db8::1"),
        ([b"::ffff:198.51.100.1"], b"::ffff:198.51.100.1"),
        ([b"198.51.100.1, unknown, 10.0.0.1"], b"10.0.0.1"),
        ([b"198.51.100.1,"], b"192.0.2.7"),
    ):
        lines = sent(sends, *(b"X-Forwarded-For: " + value for value in before), trusted=True)
        assert b"X-Real-IP: " + real in lines
        assert b"X-Forwarded-For: " + b", ".join([*before, b"192.0.2.7"]) in lines


@pytest.mark.parametrize("key", ["request_id", "traceparent"])
@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("mode", ["pass", "add", "replace", "remove"])
def test_what_is_done_about_identities(key: str, trusted: bool, mode: str) -> None:
    name = b"X-Request-ID" if key == "request_id" else b"traceparent"
    new = {b"X-Request-ID": rb"[0-9a-f]{32}", b"traceparent": rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01"}[name]
    sends = Sends(**{key: mode})  # type: ignore[arg-type]

    def identities(*lines: bytes) -> list[bytes]:
        found = sent(sends, *lines, trusted=trusted, times=2)
        return [line.partition(b": ")[2] for line in found if line.lower().startswith(name.lower() + b":")]

    own, made = identities(name + b": 7"), identities()
    stays = mode in ("pass", "add") or (mode == "replace" and trusted)
    assert (own == [b"7"]) is stays
    assert len(own) == (mode != "remove")
    assert len(made) == (mode in ("add", "replace"))
    for value in [*made, *([] if stays else own)]:
        assert re.fullmatch(new, value)
    assert made != identities() or not made
    assert (b"tracestate: 8" in sent(sends, b"tracestate: 8", trusted=trusted)) is (
        stays or key == "request_id"
    )


def test_a_requests_identity_is_the_same_however_often_it_is_asked_for() -> None:
    for mode in ("pass", "add", "replace", "remove"):
        one = RequestHead(b"192.0.2.7", b"h", b"http", HeadLimits(), Sends(request_id=mode))
        seen = set()
        for _ in range(2):
            one.read(request([b"Host: a"]))
            assert one.request_id == one.request_id
            assert (b"X-Request-ID: " + one.request_id in one.printed()) is (mode in ("add", "replace"))
            assert one.printed() == one.printed()
            seen.add(one.request_id)
        assert len(seen) == 2
        one.read(request([b"Host: a", b"X-Request-ID: 7"]))
        assert (one.request_id == b"7") is (mode in ("pass", "add"))


def test_readers_that_send_different_fields_learn_nothing_wrong_from_each_other() -> None:
    raw = request([b"Host: a", b"A: b"])
    only_host = Sends(frozenset({b"x-forwarded-host"}))
    kinds = [Sends(), Sends(frozenset()), EVERYTHING, only_host, Sends(via=True)]
    limits = HeadLimits()

    def parse(sends: Sends) -> bytes:
        return RequestHead(b"192.0.2.7", b"h", b"http", limits, sends).parse(raw)

    alone = [parse(sends) for sends in kinds]
    assert len(set(alone)) == len(kinds)
    for sends, expected in zip(reversed(kinds), reversed(alone), strict=True):
        for _ in range(2):
            assert parse(sends) == expected
