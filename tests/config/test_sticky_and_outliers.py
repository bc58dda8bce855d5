"""What is refused of ``[backend.sticky]`` and ``[backend.outliers]``, each with the key and the fix."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from pylb.config import stickiness
from pylb.config.load import ConfigError, from_document
from pylb.config.model import Config
from pylb.config.trials import problems

FRONTEND = 'frontend = { name = "f", bind = "127.0.0.1:80", backend = "b" }\n'


def read(keys: str, frontend: str = FRONTEND) -> Config:
    return from_document(tomllib.loads(f'{frontend}[backend]\nname = "b"\nserver = "127.0.0.1:1"\n{keys}\n'))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('sticky = { cookie = "a b" }', "sticky.cookie"),
        ('sticky = { cookie = "S", mode = "rewrite", max_idle = 5 }', 'max_idle is for mode = "insert"'),
        ('sticky = { cookie = "S", mode = "passive", values = "signed" }', 'values must be "name"'),
        ('sticky = { cookie = "S", secret_file = "x" }', 'secret_file needs values = "signed" or "hashed"'),
        ('sticky = { cookie = "S", same_site = "None" }', "without secure = true"),
        ('sticky = { cookie = "__Host-S" }', "without secure = true"),
        ('sticky = { cookie = "__Host-S", secure = true, path = "/x" }', "another path than /"),
        ('sticky = { cookie = "S", path = "/x;y" }', "sticky.path"),
        ('sticky = { cookie = "S", domain = "a b" }', "sticky.domain"),
        ("outliers = { failures = 0 }", "failures or rate must say"),
        ("outliers = { eject = 60, eject_most = 30 }", "eject_most (30 s) is less than eject (60 s)"),
        ("outliers = { rate = 1.5 }", "outliers.rate"),
        ("outliers = { statuses = 700 }", "outliers.statuses"),
        ("panic = 2", "panic"),
        ('on_marked_down = "x"', "shutdown-sessions"),
    ],
)
def test_mistakes_are_named(keys: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"backend\[0\]") as caught:
        read(keys)
    assert said in str(caught.value)


def test_connections_have_no_cookies() -> None:
    tcp = 'frontend = { name = "f", bind = "127.0.0.1:80", backend = "b", mode = "tcp" }\n'
    with pytest.raises(ConfigError, match='\'b\' has sticky, but mode "tcp" reads no cookies'):
        read('sticky = { cookie = "S" }', tcp)


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    config = read(f'sticky = {{ cookie = "S", values = "signed", secret_file = "{file}" }}')
    assert problems(config) == [f"backend[0].sticky.secret_file: {file}: No such file or directory"]
    file.write_bytes(b"short\n")
    assert problems(config) == [f"backend[0].sticky.secret_file: {file}: a secret has 16 bytes at least"]
    file.write_bytes(b"long enough for a secret\n")
    assert problems(config) == []
    assert stickiness.secrets(config, b"") == {"b": b"long enough for a secret"}


def test_without_a_file_the_secret_is_the_same_as_long_as_pylb_runs() -> None:
    config = read('sticky = { cookie = "S", values = "hashed" }')
    first = stickiness.secrets(config, b"random")
    assert first == stickiness.secrets(config, b"random") != stickiness.secrets(config, b"another")
    assert stickiness.secrets(read('sticky = { cookie = "S" }'), b"random") == {}


def test_attributes_are_those_of_the_section() -> None:
    config = read(
        'sticky = { cookie = "S", domain = "a.example", path = "/x", secure = true, same_site = "Lax", '
        'max_age = "1h", nocache = false }'
    )
    sticky = stickiness.compiled(config.backends[0])
    assert sticky is not None
    sticky.know([("s1", "", "127.0.0.1:1")])
    out = sticky.response(b"HTTP/1.1 200 OK\r\n\r\n", "s1", None)
    assert out.split(b"\r\n")[1] == (
        b"Set-Cookie: S=s1; Path=/x; Domain=a.example; Max-Age=3600; HttpOnly; Secure; SameSite=Lax"
    )
