from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.config.address import Address, parse_address
from pylb.config.load import ConfigError, load_file, quick

BAD = """
admin = "foo"
[workers]
min = 0
mx = 3
[timeouts]
connect = "5 parsecs"
[[frontend]]
name = "f"
bind = "127.0.0.1:99999"
backend = "x"
[[backend]]
name = "b"
balance = "foo"
[[backend.server]]
adress = "1.2.3.4:80"
"""


def mistakes(folder: Path, text: str) -> list[str]:
    """What is said about a file with this text."""
    file = folder / "pylb.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_file(file)
    return caught.value.problems


def test_every_mistake_is_named_with_its_key_and_what_is_allowed(tmp_path: Path) -> None:
    found = mistakes(tmp_path, BAD)
    for expected in (
        "admin: 'foo' is not an address",
        "workers.min: input should be greater than or equal to 1 (got 0)",
        "workers.mx: unknown key; allowed: max, min",
        "timeouts.connect: expected seconds or a duration",
        "frontend[0].bind[0]: port 99999 is greater than 65535",
        "backend[0].balance: unknown algorithm 'foo'; allowed: cookie:NAME, first, header:NAME, leastconn, ",
        "backend[0].server[0].adress: unknown key; allowed: address, backup, check, check_port, cookie, ",
        "backend[0].server[0].address: missing",
        "frontend[0].backend: no backend 'x'; defined: b",
    ):
        assert any(problem.startswith(expected) for problem in found)
    assert len(found) == 9


UNLINKED = """
frontends = []
[[frontend]]
name = "f"
bind = ["127.0.0.1:1", "127.0.0.1:2"]
backend = "nowhere"
[[frontend]]
name = "g"
bind = "127.0.0.1:1"
mode = "tcp"
backend = "b"
sni = { "a.org" = "neither" }
[[backend]]
name = "b"
http2 = true
server = ["127.0.0.1:3"]
[[backend]]
name = "b"
server = ["127.0.0.1:0"]
"""


def test_what_is_wrong_between_sections_is_said_with_all_the_rest(tmp_path: Path) -> None:
    assert sorted(mistakes(tmp_path, UNLINKED)) == [
        "backend[1].name: another backend is named 'b'",
        "backend[1].server[0].address: a server's port is a number from 1 to 65535 (got '127.0.0.1:0')",
        "frontend[0].backend: no backend 'nowhere'; defined: b, b",
        "frontend[1].backend: 'b' has http2, which mode \"tcp\" can't speak",
        "frontend[1].bind[0]: 127.0.0.1:1 is bound by frontend[0].bind[0], too",
        "frontend[1].sni.a.org: no backend 'neither'; defined: b, b",
        "frontends: unknown key; did you mean [[frontend]]?",
    ]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ('balance = "header"', "backend[0].balance: unknown algorithm 'header'; allowed: cookie:NAME, "),
        ('balance = "leastconn:x"', "backend[0].balance: unknown algorithm 'leastconn:x'; allowed: "),
        ('balance = "header:a b"', "backend[0].balance: no header is called 'a b'"),
        ('balance = "query:a=b"', "backend[0].balance: no query is called 'a=b'"),
        ("hash_factor = 0.5", "backend[0].hash_factor: expected 0, or more than 1 (got 0.5)"),
        ('balance = "uri"', "frontend[0].backend: 'b' has balance 'uri', but mode \"tcp\" reads no requests"),
    ],
)
def test_how_servers_are_picked_is_checked(tmp_path: Path, more: str, problem: str) -> None:
    text = '[[frontend]]\nname = "f"\nbind = "127.0.0.1:1"\nmode = "tcp"\nbackend = "b"\n'
    found = mistakes(tmp_path, f'{text}[[backend]]\nname = "b"\nserver = "127.0.0.1:2"\n{more}\n')
    assert any(one.startswith(problem) for one in found), found


def test_sections_that_are_no_tables(tmp_path: Path) -> None:
    assert sorted(mistakes(tmp_path, 'workers = 3\nfrontend = 5\nbackend = ["a"]\n')) == [
        "backend[0]: expected a table (got 'a')",
        "frontend[0]: expected a table (got 5)",
        "workers: expected a table (got 3)",
    ]


def test_names_that_only_code_uses(tmp_path: Path) -> None:
    found = mistakes(tmp_path, 'backends = []\n[[backend]]\nname = "b"\nservers = ["127.0.0.1:1"]\n')
    assert "backends: unknown key; did you mean [[backend]]?" in found
    assert "backend[0].servers: unknown key; did you mean [[backend.server]]?" in found


@pytest.mark.parametrize("key", ["frontend", "server", "backend"])
def test_an_unknown_key_is_named_as_it_is_written(tmp_path: Path, key: str) -> None:
    assert any(one.startswith(f"log.{key}s: unknown key") for one in mistakes(tmp_path, f"log.{key}s = 1\n"))


def test_an_address_bound_twice() -> None:
    with pytest.raises(ConfigError, match="is bound by"):
        quick(["127.0.0.1:80", "127.0.0.1:80"], ["127.0.0.1:81"])


@pytest.mark.parametrize("address", ["nonsense", "tcp:127.0.0.1", "tcp:a..b:1", "vsock:4294967296:1"])
def test_a_controller_address_that_is_none(address: str) -> None:
    # Found here, the control plane would have died of it, again and again.
    with pytest.raises(ConfigError, match="^--controller: "):
        quick(["127.0.0.1:80"], ["127.0.0.1:81"], controller=address)


def test_files_of_the_controller_are_looked_at(tmp_path: Path) -> None:
    empty = tmp_path / "token"
    empty.touch()
    found = mistakes(
        tmp_path,
        f'[controller]\ntoken_file = "{empty}"\ntls_ca = "/does/not/exist"\n'
        '[[frontend]]\nname = "f"\nbind = "127.0.0.1:1"\nbackend = "b"\n'
        '[[backend]]\nname = "b"\nserver = ["127.0.0.1:2"]\n',
    )
    assert [problem.split(": ")[0] for problem in found] == ["controller.token_file", "controller.tls_ca"]


def test_true_is_not_one(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        "workers.min = true\ntimeouts.client = true\nlimits = {connections = false, body_bytes = true}\n"
        '[[frontend]]\nname = "f"\nbind = "127.0.0.1:80"\nbackend = "b"\nbody_bytes = true\n'
        '[[backend]]\nname = "b"\n[[backend.server]]\naddress = "127.0.0.1:81"\n',
    )
    keys = ("workers.min", "timeouts.client", "limits.body_bytes", "frontend[0].body_bytes")
    wanted = [f"{key}: expected a number (got True)" for key in keys]
    assert sorted(found) == sorted([*wanted, "limits.connections: expected a number (got False)"])


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "a b", "a/b"])
def test_hosts_that_no_resolver_takes(host: str) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        parse_address(f"{host}:80")


@pytest.mark.parametrize(
    ("binds", "servers", "more", "says"),
    [
        (["127.0.0.1:80", "x"], ["127.0.0.1:81"], {}, "--bind: 'x' is not an address"),
        (["127.0.0.1:80"], ["y:z"], {}, "--server: 'y:z' is not an address"),
        (["127.0.0.1:80"], ["127.0.0.1:81,wieght=2"], {}, "--server.wieght: unknown key"),
        (["127.0.0.1:80"], ["127.0.0.1:81"], {"balance": "z"}, "--balance: unknown algorithm 'z'"),
        (["127.0.0.1:80"], ["127.0.0.1:81"], {"workers": "4..2"}, "--workers: min (4) is greater than"),
        (["127.0.0.1:80"], ["127.0.0.1:81"], {"controller": "foo"}, "--controller: 'foo' is no controller"),
        (["127.0.0.1:80"], ["127.0.0.1:81"], {"admin": "foo"}, "--admin: 'foo' is not an address"),
        (["127.0.0.1:80"], ["127.0.0.1:81"], {"log_format": "xml"}, "--log-format: input should be"),
    ],
)
def test_mistakes_in_the_quick_form_name_the_option(
    binds: list[str], servers: list[str], more: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        quick(binds, servers, **more)
    assert caught.value.problems[0].startswith(says)
    assert len(caught.value.problems) == 1


def test_the_quick_form() -> None:
    config = quick(["[::1]:80"], ["unix:/x", "h:1,weight=3"], workers="2..5", balance="roundrobin")
    assert (config.workers.min, config.workers.max) == (2, 5)
    assert [server.weight for server in config.backends[0].servers] == [1, 3]
    assert [str(server.address) for server in config.backends[0].servers] == ["unix:/x", "h:1"]


def test_options_go_before_the_keys_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "pylb.toml"
    file.write_text(
        'admin = "127.0.0.1:9"\nlog = {format = "json", level = "debug"}\nworkers = {min = 1, max = 1}\n'
        '[[frontend]]\nname = "f"\nbind = "127.0.0.1:1"\nbackend = "b"\n'
        '[[backend]]\nname = "b"\nserver = "127.0.0.1:2"\n'
    )
    config = load_file(file, admin="unix:/x", log_format="console", workers="3", controller="unix:/y")
    assert (str(config.admin), config.log.format, config.log.level) == ("unix:/x", "console", "debug")
    assert (config.workers.min, config.workers.max, config.controller.address) == (3, 3, "unix:/y")


def test_mistakes_in_options_over_a_file_name_the_option(tmp_path: Path) -> None:
    file = tmp_path / "pylb.toml"
    file.write_text(
        'log = {level = 1}\ncontroller = 5\n[[frontend]]\nname = "f"\nbind = "127.0.0.1:1"\nbackend = "b"\n'
        '[[backend]]\nname = "b"\nserver = "127.0.0.1:2"\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_file(file, admin="x", log_format="xml", controller="unix:/x")
    assert [problem.split(" (got ")[0] for problem in caught.value.problems] == [
        "controller: expected a table",
        "--log-format: input should be 'console' or 'json'",
        "log.level: input should be 'debug', 'info', 'warning' or 'error'",
        "--admin: 'x' is not an address; write HOST:PORT, [IPV6]:PORT or unix:PATH",
    ]


def test_every_option_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        quick(["127.0.0.1:80"], ["127.0.0.1:81,weight"], workers="many")
    assert caught.value.problems == [
        "--server: expected KEY=VALUE after the comma of 127.0.0.1:81,weight (got 'weight')",
        "--workers: expected N or MIN..MAX, as in 1..4 (got 'many')",
    ]


@pytest.mark.parametrize("workers", ["x", "1..", "..2", "3..1", "0", "1...2"])
def test_bad_worker_ranges(workers: str) -> None:
    with pytest.raises(ConfigError):
        quick(["127.0.0.1:80"], ["127.0.0.1:81"], workers=workers)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_addresses_read_back_as_written(ip: object, port: int) -> None:
    address = Address(str(ip), port)
    assert parse_address(str(address)) == address


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_clear_mistake(text: str) -> None:
    try:
        parse_address(text)
    except ValueError as error:
        assert str(error)
