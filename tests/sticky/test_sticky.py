"""Stickiness by a cookie: what of a request names a server, and what a response says, in each mode."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pylb.sticky.cookies import Cookie
from pylb.sticky.sticky import Settings, Sticky
from pylb.sticky.tokens import Kind, Token, Tokens

NOW = 1_800_000_000.0
SERVERS = [("s1", "", "10.0.0.1:80"), ("s2", "", "10.0.0.2:80"), ("s 3", "", "10.0.0.3:80")]


def request(*cookies: str) -> bytes:
    lines = "".join(f"Cookie: {cookie}\r\n" for cookie in cookies)
    return f"GET /?SRV=s2 HTTP/1.1\r\nHost: a\r\n{lines}Accept: */*\r\n\r\n".encode()


def response(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", "Content-Length: 0", *lines, "", ""]).encode()


def made(secret: bytes = b"a secret of this test", backend: str = "b", **settings: Any) -> Sticky:
    sticky = Sticky(Settings(b"SRV", **settings), secret, backend)
    sticky.know(SERVERS)
    return sticky


def added(before: bytes, after: bytes) -> list[str]:
    """The lines by which a response has become longer."""
    lines = before.split(b"\r\n")
    return [line.decode() for line in after.split(b"\r\n") if line not in lines]


def cookie_of(sticky: Sticky, server: str, token: Token | None = None, now: float = 0.0) -> str:
    """What a client sends back after a response of this server."""
    (line, *_) = added(response(), sticky.response(response(), server, token, now))
    assert line.startswith("Set-Cookie: ")
    return line.removeprefix("Set-Cookie: ").partition(";")[0]


def named(sticky: Sticky, *cookies: str, now: float = 0.0) -> tuple[int, ...]:
    token = sticky.wanted(request(*cookies), now)
    return () if token is None else sticky.places[token.id]


def test_who_has_no_cookie_of_a_server_is_given_one() -> None:
    sticky = made()
    for cookies in ([], ["a=SRV"], ["SRV="], ["SRV=s9"], ["XSRV=s1"], ["SRVX=s1"], ["a=1; SRV"]):
        token = sticky.wanted(request(*cookies))
        assert token is None, cookies
        out = sticky.response(response(), "s1", token)
        assert added(response(), out) == ["Set-Cookie: SRV=s1; Path=/", "Cache-Control: private"]


def test_a_cookie_names_its_server_wherever_it_stands() -> None:
    sticky = made()
    for cookies in (
        ["SRV=s2"],
        ["a=1; SRV=s2; b=2"],
        ["a=1;SRV=s2"],
        ["a=1", "b=2; SRV=s2"],
        ['SRV="s2"'],
        ["SRV=gone; SRV=s2"],  # of another path or domain
        ["SRV=gone", "SRV=s2"],
    ):
        assert named(sticky, *cookies) == (1,), cookies
    assert named(sticky, "SRV=s%203") == (2,)
    raw = request("SRV=s2").replace(b"Cookie:", b"cOOKIE:")
    assert sticky.wanted(raw) == Token(b"s2")


def test_who_comes_to_the_same_server_again_is_told_nothing() -> None:
    sticky = made()
    token = sticky.wanted(request("SRV=s2"))
    head = response("Set-Cookie: other=1")
    assert sticky.response(head, "s2", token) is head
    assert added(head, sticky.response(head, "s1", token)) == [
        "Set-Cookie: SRV=s1; Path=/",
        "Cache-Control: private",
    ]
    assert sticky.response(head, "removed", token) is head


def test_servers_do_not_see_the_cookie_and_all_others_stay_as_they_are() -> None:
    sticky = made()
    assert sticky.edits_requests
    for before, after in (
        (["SRV=s1"], []),
        (["a=1; SRV=s1; b=2"], ["a=1; b=2"]),
        (["SRV=s1; a=1;b=2 ;  c"], ["a=1;b=2 ;  c"]),
        (["a=1; SRV=s1"], ["a=1"]),
        (["a=1", "SRV=s1", "b=2"], ["a=1", "b=2"]),
        (["SRV=s1; a=SRV=x; SRV=s2"], ["a=SRV=x"]),
        (["a=1"], ["a=1"]),
    ):
        assert sticky.request(request(*before)) == request(*after), before
    assert not made(indirect=False).edits_requests


def test_a_servers_own_cookie_of_the_name_is_taken_out_or_preserved() -> None:
    own = response("Set-Cookie: a=1; Path=/", "set-cookie: SRV=app; Secure", "Vary: x")
    out = made().response(own, "s1", None)
    assert b"app" not in out and b"\r\nSet-Cookie: a=1; Path=/\r\nVary: x\r\n" in out
    assert b"Set-Cookie: SRV=s1; Path=/" in out
    token = Token(b"s1")
    assert made().response(own, "s1", token) == response("Set-Cookie: a=1; Path=/", "Vary: x")
    kept = made(preserve=True)
    assert kept.response(own, "s1", None) is own
    assert b"SRV=s1" in kept.response(response(), "s1", None)


def test_rewrite_puts_the_server_into_the_servers_cookie() -> None:
    sticky = made(mode="rewrite")
    assert not sticky.edits_requests
    head = response("Set-Cookie: SRV=any; Path=/x; Secure")
    assert sticky.response(head, "s2", None) == response("Set-Cookie: SRV=s2; Path=/x; Secure")
    assert sticky.response(response(), "s2", None) == response()
    assert named(sticky, "SRV=s2") == (1,)


def test_prefix_puts_the_server_in_front_of_the_servers_value() -> None:
    sticky = made(mode="prefix")
    assert sticky.edits_requests
    head = response("Set-Cookie: SRV=an~app; Path=/x", "Set-Cookie: other=1")
    expected = response("Set-Cookie: SRV=s2~an~app; Path=/x", "Set-Cookie: other=1")
    assert sticky.response(head, "s2", None) == expected
    assert named(sticky, "a=1; SRV=s2~an~app") == (1,)
    assert sticky.request(request("a=1; SRV=s2~an~app; b")) == request("a=1; SRV=an~app; b")
    assert named(sticky, "SRV=s2") == ()
    assert sticky.request(request("SRV=s2")) == request("SRV=s2")


def test_passive_only_reads() -> None:
    sticky = Sticky(Settings(b"SRV", mode="passive"))
    sticky.know([("s1", "node-a", "10.0.0.1:80"), ("s2", "node-b", "10.0.0.2:80")])
    assert not sticky.edits_requests
    assert named(sticky, "SRV=node-b") == (1,)
    head = response("Set-Cookie: SRV=node-a")
    assert sticky.response(head, "s1", None) is head


def test_servers_may_share_a_cookie() -> None:
    sticky = made()
    sticky.know([("s1", "x", "10.0.0.1:80"), ("s2", "x", "10.0.0.2:80")])
    assert named(sticky, "SRV=x") == (0, 1)
    head = response()
    assert sticky.response(head, "s2", sticky.wanted(request("SRV=x"))) is head


@pytest.mark.parametrize("values", ["hashed", "signed"])
def test_only_who_knows_the_secret_can_make_a_value(values: Kind) -> None:
    sticky = made(values=values)
    cookies = {name: cookie_of(sticky, name) for name, _, _ in SERVERS}
    assert len(set(cookies.values())) == 3
    for position, cookie in enumerate(cookies.values()):
        assert named(sticky, cookie) == (position,)
        assert named(made(values=values), cookie) == (position,)  # another worker, or after a restart
        assert named(made(values=values, secret=b"another secret"), cookie) == ()
        assert named(made(values=values, backend="c"), cookie) == ()
    assert named(sticky, "SRV=s1") == named(sticky, "SRV=s1.") == named(sticky, "SRV=.") == ()


def test_a_wrong_signature_is_no_cookie() -> None:
    sticky = made(values="signed")
    good = cookie_of(sticky, "s1")
    assert named(sticky, good.replace("s1", "s2")) == ()
    for at in range(len("SRV="), len(good)):
        other = "A" if good[at] != "A" else "B"
        if at < len(good) - 1:  # of the last character two bits are of no meaning, but it is compared as text
            assert named(sticky, good[:at] + other + good[at + 1 :]) == (), at
    assert named(sticky, good[:-1]) == named(sticky, good + "A") == ()


def test_a_hash_says_neither_name_nor_address() -> None:
    cookie = cookie_of(made(values="hashed"), "s1")
    assert "s1" not in cookie and "10" not in cookie.partition("=")[2][:2]
    assert len(cookie) == len("SRV=") + 16


@pytest.mark.parametrize("values", ["name", "signed"])
def test_a_cookie_that_was_not_used_for_too_long_counts_for_nothing(values: Kind) -> None:
    sticky = made(values=values, max_idle=600)
    cookie = cookie_of(sticky, "s1", now=NOW)
    assert named(sticky, cookie, now=NOW + 1) == (0,)
    token = sticky.wanted(request(cookie), NOW + 590)
    assert token is not None
    renewed = cookie_of(sticky, "s1", token, NOW + 590)
    assert named(sticky, cookie, now=NOW + 610) == ()
    assert named(sticky, renewed, now=NOW + 610) == (0,)
    head = response()
    fresh = sticky.wanted(request(renewed), NOW + 590)
    assert sticky.response(head, "s1", fresh, NOW + 591) is head
    # A date of a bound that isn't there any more goes.
    assert added(head, made().response(head, "s1", fresh))[0].startswith("Set-Cookie: SRV=s1; Path=/")


def test_a_cookie_has_a_longest_life_however_it_is_used() -> None:
    sticky = made(max_idle=600, max_life=1000)
    cookie = cookie_of(sticky, "s1", now=NOW)
    for seconds in (500, 990):
        token = sticky.wanted(request(cookie), NOW + seconds)
        assert token is not None
        cookie = cookie_of(sticky, "s1", token, NOW + seconds)
    assert named(sticky, cookie, now=NOW + 1010) == ()


def test_dates_are_haproxys_and_one_of_the_far_future_counts_for_nothing() -> None:
    tokens = Tokens("name")
    assert tokens.written(Token(b"a", 4, 1_800_000_000)) == b"a|AAAAB|a0nSA"
    assert tokens.read(b"a|AAAAB|a0nSA") == Token(b"a", 4, 1_800_000_000)
    assert tokens.read(b"a|AA|~") == Token(b"a")
    sticky = made(max_idle=600)
    ahead = tokens.written(Token(b"s1", int(NOW) + 2 * 86400)).decode()
    assert named(sticky, f"SRV={ahead}", now=NOW) == ()
    # Without a date it is as good as new (as for HAProxy), and gets one.
    assert named(sticky, "SRV=s1", now=NOW) == (0,)
    assert "|" in cookie_of(sticky, "s1", Token(b"s1"), NOW)


def test_attributes_stand_behind_the_value() -> None:
    sticky = made(attributes=b"; Path=/x; Secure", nocache=False)
    assert added(response(), sticky.response(response(), "s1", None)) == [
        "Set-Cookie: SRV=s1; Path=/x; Secure"
    ]


@example(["SRV"])  # without a value it is no cookie of that name
@given(st.lists(st.text("abSRV=; \t\"~.|", max_size=20), max_size=3))
def test_whatever_a_client_sends_only_declared_servers_are_named_and_nothing_else_is_lost(
    cookies: list[str],
) -> None:
    for mode in ("insert", "prefix"):
        sticky = made(mode=mode)
        raw = request(*cookies)
        token = sticky.wanted(raw)
        assert token is None or token.id in (b"s1", b"s2", b"s%203")
        out = sticky.request(raw)
        assert out.split(b"\r\n")[0] == raw.split(b"\r\n")[0] and out.endswith(b"\r\nAccept: */*\r\n\r\n")
        if mode == "insert" and b"SRV=" not in raw.partition(b"\r\n")[2]:
            assert out == raw
        if mode == "insert":
            assert list(Cookie(b"SRV").values(out)) == []
