"""``explain`` and ``[[test]]`` of frontends in TCP mode."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pylb.cli import app
from pylb.config.load import ConfigError
from pylb.explain.tested import load_tested

FILE = """\
[[frontend]]
name = "ssh"
mode = "tcp"
bind = "127.0.0.1:22"
backend = "a"
[[frontend.rule]]
match.source = "10.9.0.0/16"
drop = true
[[frontend.rule]]
match.source = "10.0.0.0/8"
backend = "b"

[[frontend]]
name = "names"
mode = "tcp"
bind = "127.0.0.1:443"
backend = "a"
sni = { "b.example" = "b", "*.c.example" = "c" }
[[frontend.rule]]
match.alpn = "imap"
backend = "c"

[[backend]]
name = "a"
server = "127.0.0.1:1"
[[backend]]
name = "b"
server = ["127.0.0.1:1", "127.0.0.1:2"]
[[backend]]
name = "c"
balance = "source"
server = ["127.0.0.1:1", "127.0.0.1:2"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pylb.toml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["tcp://any:22"], ["frontend  ssh", "backend   a", "server    s1"]),
        (["tcp://any:22", "--from", "10.1.2.3"], ["rule[1]", "backend   b", "server    one of s1, s2"]),
        (["tcp://any:22", "--from", "10.9.2.3"], ["rule[0]", "answer    none: the connection is closed"]),
        (["tls://b.example"], ["frontend  names", "no: alpn", "backend   b"]),
        (["tls://x.c.example"], ["backend   c", ", by source"]),
        (["tls://other.example"], ["backend   a"]),
        (["tls://b.example", "--alpn", "imap"], ["rule[0]", "is the last one", "backend   c"]),
        (["tls://b.example:22"], ["frontend  ssh", "backend   a"]),
    ],
)
def test_where_a_connection_goes(file: Path, asked: list[str], said: list[str]) -> None:
    result = CliRunner().invoke(app, ["explain", "-c", str(file), *asked])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"connects  {asked[0]} from ")
    assert "sent " not in result.output
    for part in said:
        assert part in result.output


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["tcp://any:23"], "no frontend listens on port 23"),
        (["tcp://any:22/x"], "a connection in TCP mode has no path"),
        (["https://a/", "--alpn", "h2"], "only a tls:// client's offer can be told"),
        (["http://a/"], "no frontend speaks HTTP"),
        (["udp://a:22"], "is no URL; write https://HOST/PATH, tcp://HOST:PORT or tls://NAME"),
    ],
)
def test_what_can_not_be_asked(file: Path, asked: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["explain", "-c", str(file), *asked])
    assert result.exit_code == 2
    assert said in result.output


def test_a_test_of_a_connection(file: Path) -> None:
    right = '[[test]]\nurl = "tls://x.c.example"\nexpect.backend = "c"\n'
    right += '[[test]]\nurl = "tcp://a:22"\nfrom = "10.9.0.1"\nexpect.drop = true\n'
    right += '[[test]]\nurl = "tls://b.example"\nalpn = ["h2", "imap"]\nexpect.backend = "c"\n'
    file.write_text(FILE + right)
    assert len(load_tested(file).tests) == 3
    file.write_text(FILE + right.replace('backend = "c"', 'backend = "b"', 1))
    with pytest.raises(ConfigError, match=r"test\[0\].expect.backend: 'tls://x.c.example': expected 'b'"):
        load_tested(file)
