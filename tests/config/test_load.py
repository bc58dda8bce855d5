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


def test_every_mistake_is_named_with_its_key_and_what_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(BAD)
    with pytest.raises(ConfigError) as caught:
        load_file(file)
    text = "\n".join(caught.value.problems)
    for expected in (
        "admin: 'foo' is not an address",
        "workers.min: input should be greater than or equal to 1 (got 0)",
        "workers.mx: unknown key; allowed: max, min",
        "timeouts.connect: expected seconds or a duration",
        "frontend[0].bind[0]: port 99999 is greater than 65535",
        "backend[0].balance: unknown algorithm 'foo'; allowed: leastconn, roundrobin",
        "backend[0].server[0].adress: unknown key; allowed: address, name, weight",
        "backend[0].server[0].address: missing",
        "frontend[0].backend: no backend 'x'; defined: b",
    ):
        assert expected in text
    assert len(caught.value.problems) == 9


def test_links_between_sections_are_checked() -> None:
    with pytest.raises(ConfigError, match="bound by both|is bound"):
        quick(["127.0.0.1:80", "127.0.0.1:80"], ["127.0.0.1:81"])


def test_backends_that_do_not_exist_are_named_as_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        """
        [[frontend]]
        name = "f"
        bind = "127.0.0.1:80"
        mode = "tcp"
        backend = "nope"
        sni = {"a.example" = "neither"}
        [[backend]]
        name = "b"
        server = ["127.0.0.1:81"]
        """
    )
    with pytest.raises(ConfigError) as caught:
        load_file(file)
    assert caught.value.problems == [
        "frontend[0].backend: no backend 'nope'; defined: b",
        "frontend[0].sni.\"a.example\": no backend 'neither'; defined: b",
    ]


def test_the_controllers_files_are_looked_at_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "pylb.toml"
    file.write_text(
        f"""
        controller = {{token_file = "{tmp_path}/none", tls_ca = "{tmp_path}/neither"}}
        frontend = {{name = "f", bind = "127.0.0.1:80", backend = "b"}}
        backend = {{name = "b", server = ["127.0.0.1:81"]}}
        """
    )
    with pytest.raises(ConfigError) as caught:
        load_file(file)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "controller.token_file",
        "controller.tls_ca, tls_cert or tls_key",
    ]


@pytest.mark.parametrize(
    ("binds", "servers", "more", "says"),
    [
        (["127.0.0.1:80", "x"], ["127.0.0.1:81"], {}, "--bind: 'x' is not an address"),
        (["127.0.0.1:80"], ["y"], {}, "--server: 'y' is not an address"),
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
