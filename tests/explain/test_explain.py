"""What ``explain`` prints, and how a request is written on its command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pylb.cli import app
from pylb.explain.request import BadRequest, Request, header_of

FILE = """\
[[frontend]]
name = "web"
bind = ["127.0.0.1:80", "[::1]:8080"]
backend = "site"

[[frontend.rule]]
match = { path = "/admin", not = { source = "10.0.0.0/8" } }
backend = "admin"

[[frontend.rule]]
[frontend.rule.match]
host = "shop.example"
path = "/cart"
[frontend.rule.split]
stable = 3
canary = 1

[[frontend.rule]]
match.path = "/x"
split = { stable = 3, canary = 1 }
split_by = "cookie:id"

[[frontend]]
name = "old"
bind = "127.0.0.1:81"
backend = "site"
redirect_to_https = true
rule = { match = { path = "/" }, backend = "admin" }

[[frontend]]
name = "raw"
mode = "tcp"
bind = "127.0.0.1:82"
backend = "site"

[[backend]]
name = "site"
server = ["127.0.0.1:1", "127.0.0.1:2", { address = "127.0.0.1:3", weight = 0 }]
[[backend]]
name = "admin"
server = "127.0.0.1:1"
[[backend]]
name = "stable"
server = "127.0.0.1:1"
[[backend]]
name = "canary"
server = "127.0.0.1:1"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "pylb.toml"
    file.write_text(FILE)
    return file


def explained(file: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["explain", "-c", str(file), *arguments])
    assert done.exit_code == 0, done.output
    return done.output.replace(f"{file.parent}/", "")


def as_json(file: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(explained(file, "--json", *arguments))
    return found


def test_rule_by_rule(file: Path) -> None:
    said = explained(
        *(file, "http://shop.example/cart?x=1", "--method", "post", "--header", "Cookie: a=b"),
        *("--from", "10.1.2.3"),
    )
    lines = said.splitlines()
    assert lines[:8] == [
        "request   POST http://shop.example/cart?x=1 from 10.1.2.3",
        "frontend  web  (pylb.toml:1)",
        "  rule[0]  pylb.toml:7  no: path",
        "  rule[1]  pylb.toml:10  matches, and is the last one",
        "             split = {stable = 3, canary = 1}",
        "  1 more, not reached",
        lines[6],
        "          by chance: stable 75 %, canary 25 %",
    ]
    assert lines[6] in ("backend   stable  (pylb.toml:42)", "backend   canary  (pylb.toml:45)")
    assert lines[8:12] == [
        "server    s1",
        "sent      POST /cart?x=1",
        "          Host: shop.example",
        "          Cookie: a=b",
    ]
    assert "          X-Forwarded-For: 10.1.2.3" in lines


def test_the_condition_that_failed_first_has_its_own_line(file: Path) -> None:
    found = as_json(file, "http://shop.example/cart/x", "--header", "Host: other.example")
    assert [rule.get("failed") for rule in found["rules"]] == ["path", "host", "path"]
    assert [rule["place"] for rule in found["rules"]] == ["pylb.toml:7", "pylb.toml:12", "pylb.toml:19"]
    assert found["backend"] == {"name": "site", "place": "pylb.toml:36"}
    assert found["servers"] == ["s1", "s2"]  # the third one has no weight
    assert "ended_by" not in found
    assert found["sent"]["target"] == "/cart/x"


def test_what_keeps_to_one_backend_is_not_by_chance(file: Path) -> None:
    one = as_json(file, "http://a/x", "--header", "Cookie: id=7")
    assert "by_chance" not in one["backend"]
    assert one["backend"] == as_json(file, "http://b/x/y", "--header", "Cookie: id=7")["backend"]
    assert "by_chance" in as_json(file, "http://a/x")["backend"]


def test_what_is_answered_before_the_rules_have_their_turn(file: Path) -> None:
    found = as_json(file, "http://a:81/x?y")
    assert found["rules"] == [] and found["rules_not_reached"] == 1
    assert found["answer"]["status"] == 308
    assert ["Location", "https://a/x?y"] in found["answer"]["headers"]


def test_what_is_refused(file: Path) -> None:
    found = as_json(file, "http://a/x%2fy")
    assert (found["answer"]["status"], found["answer"]["refused"]) == (400, "path")
    assert "answer    400, refused: path" in explained(file, "http://a/x%2fy")
    found = as_json(file, "http://a/", "--header", "Transfer-Encoding: gzip")
    assert (found["answer"]["status"], found["answer"]["refused"]) == (400, "transfer_encoding")


@pytest.mark.parametrize(
    ("arguments", "frontend"),
    [
        (["http://a:8080/"], "web"),
        (["http://[::1]:8080/"], "web"),
        (["http://a:81/"], "old"),
        (["http://a/", "--frontend", "old"], "old"),
    ],
)
def test_which_frontend(file: Path, arguments: list[str], frontend: str) -> None:
    assert as_json(file, *arguments)["frontend"]["name"] == frontend


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["http://a:83/"], "no frontend listens on port 83; name one (frontend)"),
        (["https://a/"], "several frontends could get this request; name one (frontend): web, old"),
        (["http://a/", "--frontend", "raw"], "no frontend 'raw' for HTTP; there is web, old"),
        (["shop.example"], "'shop.example' is no URL; write https://HOST/PATH"),
        (["http:///x"], "'http:///x' names no host"),
        (["http://u@a/"], "'http://u@a/' names no host"),
        (["http://a:x/"], "'http://a:x/': "),
        (["http://a/ b"], "'http://a/ b': white space and control characters have no place in a URL"),
        (["http://a/", "--method", "G T"], "'G T' is no method, such as GET"),
        (["http://a/", "--header", "x"], "'x' is no header field; write 'Name: value'"),
        (["http://a/", "--header", "x: a\nb: c"], "'x' is no header field; write 'Name: value'"),
        (["http://a/", "--from", "x"], "'x' is no IP address"),
    ],
)
def test_what_can_not_be_asked_is_one_line(file: Path, arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["explain", "-c", str(file), *arguments])
    assert done.exit_code == 2
    assert done.output.startswith(f"pylb: {says}") and done.output.count("\n") == 1


def test_a_file_with_mistakes_is_not_explained(file: Path) -> None:
    file.write_text(FILE.replace('name = "web"', 'nmae = "web"'))
    done = CliRunner().invoke(app, ["explain", "-c", str(file), "http://a/"])
    assert done.exit_code == 1
    assert f"{file}:2: frontend[0].nmae: unknown key" in done.output


@given(st.text(max_size=30) | st.text("a.:/?#[]@%ä", max_size=20).map(lambda text: "http://" + text))
def test_any_url_is_a_request_or_a_clear_mistake(url: str) -> None:
    try:
        head = Request(url).head()
    except BadRequest as error:
        assert str(error)
    else:
        line, host, *rest = head.split(b"\r\n")
        assert line.startswith(b"GET /") and line.count(b" ") == 2 and host.startswith(b"Host: ")
        assert rest == [b"", b""]


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_field_is_one_line_or_a_clear_mistake(name: str, value: str) -> None:
    try:
        head = Request("http://a/", headers=[header_of(f"{name}: {value}")]).head()
    except BadRequest as error:
        assert str(error)
    else:
        assert head.count(b"\r") == head.count(b"\n") == head.count(b"\r\n")


def test_a_sticky_cookie_says_which_server(tmp_path: Path) -> None:
    file = tmp_path / "pylb.toml"
    file.write_text(
        '[[frontend]]\nname = "web"\nbind = "127.0.0.1:80"\nbackend = "site"\n'
        '[[backend]]\nname = "site"\nserver = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]\n'
        'sticky = { cookie = "SRV" }\n'
    )

    def said(cookie: str) -> str:
        asked = ["explain", "http://a.example/", "-c", str(file), "--header", f"Cookie: x=1; {cookie}"]
        result = CliRunner().invoke(app, asked)
        assert result.exit_code == 0
        return result.output

    assert "server    s2, by the cookie SRV\n" in said("SRV=s2")
    assert "Cookie: x=1\n" in said("SRV=s2")
    assert "server    one of s1, s2, s3, by leastconn\n" in said("SRV=s9")
