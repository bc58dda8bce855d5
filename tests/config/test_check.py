"""`check` finds what `serve` would, and what it accepts, `serve` starts with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pylb.config.address import parse_address
from pylb.config.conflicts import conflicts
from pylb.config.load import ConfigError, from_document, load_file, quick, read_document, with_files
from pylb.config.model import Config
from pylb.supervisor.arbiter import Arbiter
from pylb.worker.context import WorkerContext
from pylb.worker.process import Worker
from tests.test_cli import pylb

GOOD = """
{more}
[[frontend]]
name = "f"
bind = {bind}
backend = "b"
{frontend}
[[backend]]
name = "b"
{backend}
[[backend.server]]
address = {server}
"""


def file_of(folder: Path, **parts: str) -> Path:
    """A configuration that is good but for what is given."""
    defaults = {"more": "", "bind": '"127.0.0.1:1"', "frontend": "", "backend": "", "server": '"127.0.0.1:2"'}
    file = folder / "pylb.toml"
    file.write_text(GOOD.format(**{**defaults, **parts}))
    return file


def mistakes(folder: Path, **parts: str) -> list[str]:
    """What is said about it; nothing where it is good."""
    try:
        load_file(file_of(folder, **parts))
    except ConfigError as error:
        return error.problems
    return []


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"more": "backlog = 3000000000"}, "backlog: input should be less than or equal to 1000000"),
        ({"more": "backlog = 0"}, "backlog: input should be greater"),
        ({"more": "timeouts = {connect = 1e300}"}, "timeouts.connect: input should be less"),
        ({"more": "limits = {header_bytes = '8GiB'}"}, "limits.header_bytes: input should be less"),
        ({"more": "limits = {header_bytes = 99999999999999999999999}"}, "limits.header_bytes: input should"),
        ({"bind": r'"unix:/tmp/a\u0000b"'}, "frontend[0].bind[0]: '/tmp/a\\x00b' holds a control character"),
        ({"server": r'"unix:/tmp/a\u0000b"'}, "backend[0].server[0].address: '/tmp/a\\x00b' holds a control"),
        ({"more": r'admin = "unix:/tmp/a\u0000b"'}, "admin: '/tmp/a\\x00b' holds a control character"),
        ({"more": r'controller = {address = "unix:/tmp/a\u0000b"}'}, "controller.address: "),
        ({"more": r'controller = {token_file = "/tmp/a\u0000b"}'}, "controller.token_file: "),
        ({"more": r'admin_token_file = "/tmp/a\u0000b"'}, "admin_token_file: "),
        ({"frontend": r'tls = {certificates = "/tmp/a\u0000b"}'}, "frontend[0].tls.certificates[0]: "),
        ({"backend": r'tls = {ca = "/tmp/a\u0000b"}'}, "backend[0].tls.ca: "),
        ({"backend": r'tls = {certificate = "/tmp/a\u0000b"}'}, "backend[0].tls.certificate: "),
        ({"backend": 'tls = {name = ".x"}'}, "backend[0].tls.name: expected a host name"),
        ({"backend": 'tls = {name = ""}'}, "backend[0].tls.name: expected a host name"),
        ({"backend": 'tls = {name = "a..b"}'}, "backend[0].tls.name: expected a host name"),
        ({"backend": f'tls = {{name = "{"ß" * 80}"}}'}, "backend[0].tls.name: expected a host name"),
        ({"backend": 'tls = {name = "a b"}'}, "backend[0].tls.name: expected a host name"),
        ({"backend": "tls = {}", "server": '"unix:/run/x"'}, "backend[0].tls: name must be set"),
        ({"backend": 'tls = {key = "/tmp/x"}'}, "backend[0].tls: key needs certificate"),
        ({"frontend": 'mode = "tcp"\nsni = {".x" = "b"}'}, "frontend[0].sni: '.x' is no name"),
        ({"frontend": 'mode = "tcp"\nsni = {"bücher.de" = "b"}'}, "frontend[0].sni: 'bücher.de' is no name"),
        ({"frontend": 'tls = {certificates = "/", hsts = inf}'}, "frontend[0].tls.hsts: "),
        ({"more": 'user = "no-such-user"'}, "user: this machine has no user 'no-such-user'"),
        ({"more": 'group = "no-such-group"'}, "group: this machine has no group 'no-such-group'"),
        ({"more": 'admin_token_file = "/does/not/exist"'}, "admin_token_file: /does/not/exist: No such file"),
        ({"more": 'admin_token_file = "/dev/zero"'}, "admin_token_file: /dev/zero: is no regular file"),
        (
            {"more": 'controller = {token_file = "/dev/zero"}'},
            "controller.token_file: /dev/zero: is no regular",
        ),
        ({"more": 'controller = {tls_ca = "/dev/zero"}'}, "controller.tls_ca: /dev/zero: is no regular file"),
        ({"frontend": 'tls = {certificates = "/dev/zero"}'}, "frontend[0].tls: /dev/zero: no usable"),
        ({"backend": 'tls = {ca = "/dev/zero"}'}, "backend[0].tls: /dev/zero: no usable CA file"),
    ],
)
def test_what_serve_or_a_request_would_stumble_over(tmp_path: Path, parts: dict[str, str], says: str) -> None:
    found = mistakes(tmp_path, **parts)
    assert len(found) == 1 and found[0].startswith(says), found


@pytest.mark.parametrize(
    ("binds", "admin", "says"),
    [
        (
            ["*:80", "127.0.0.1:80"],
            None,
            "bind[1]: 127.0.0.1:80 is bound by frontend[0].bind[0] (0.0.0.0:80)",
        ),
        (
            ["127.0.0.1:80", "0.0.0.0:80"],
            None,
            "bind[1]: 0.0.0.0:80 is bound by frontend[0].bind[0] (127.0.0.1",
        ),
        (
            ["localhost:80", "127.0.0.1:80"],
            None,
            "bind[1]: 127.0.0.1:80 is bound by frontend[0].bind[0] (local",
        ),
        (["[::]:80", "[0:0:0:0:0:0:0:0]:80"], None, "bind[1]: [0:0:0:0:0:0:0:0]:80 is bound by frontend[0]."),
        (["[::1]:80", "[::]:80"], None, "bind[1]: [::]:80 is bound by frontend[0].bind[0] ([::1]:80), too"),
        (
            ["unix:/tmp/a", "unix:/tmp/../tmp/./a"],
            None,
            "bind[1]: unix:/tmp/../tmp/./a is bound by frontend[0]",
        ),
        (["127.0.0.1:80"], "127.0.0.1:80", "admin: 127.0.0.1:80 is bound by frontend[0].bind[0], too"),
        (["*:80"], "localhost:80", "admin: localhost:80 is bound by frontend[0].bind[0] (0.0.0.0:80), too"),
        (
            ["unix:/tmp/a"],
            "unix:/tmp//a",
            "admin: unix:/tmp//a is bound by frontend[0].bind[0] (unix:/tmp/a)",
        ),
    ],
)
def test_addresses_in_each_others_way(tmp_path: Path, binds: list[str], admin: str | None, says: str) -> None:
    more = "" if admin is None else f'admin = "{admin}"'
    found = mistakes(tmp_path, bind=str(binds).replace("'", '"'), more=more)
    assert len(found) == 1 and found[0].removeprefix("frontend[0].").startswith(says), found


def test_the_admin_socket_that_nobody_wrote_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLB_RUNTIME_DIR", str(tmp_path))
    found = mistakes(tmp_path, bind=f'"unix:{tmp_path}/admin.sock"')
    assert found == [f"admin: unix:{tmp_path}/admin.sock is bound by frontend[0].bind[0], too"]


@pytest.mark.parametrize(
    "binds",
    [
        ["*:80", "[::]:80"],
        ["127.0.0.1:80", "127.0.0.2:80"],
        ["127.0.0.1:80", "*:81"],
        ["127.0.0.1:0", "*:0"],
        ["unix:/tmp/a", "unix:/tmp/b"],
        ["no-such-host.invalid:80", "127.0.0.1:80"],
    ],
)
def test_addresses_that_are_not(binds: list[str]) -> None:
    assert list(conflicts((bind, parse_address(bind)) for bind in binds)) == []


def test_too_many_addresses_for_a_message(tmp_path: Path) -> None:
    many = [f"127.0.{number // 250}.{number % 250 + 1}:80" for number in range(1025)]
    assert mistakes(tmp_path, bind=str(many).replace("'", '"')) == [
        "frontend: 1025 addresses to bind, at most 1024"
    ]


# Certificates


def acme(folder: Path, ca: trustme.CA, name: str) -> None:
    """A certificate as an ACME client keeps it below ``live/``."""
    folder.mkdir(parents=True)
    made = ca.issue_cert(name)
    (folder / "README").write_text("This directory contains your keys and certificates.")
    (folder / "privkey.pem").write_bytes(made.private_key_pem.bytes())
    (folder / "cert.pem").write_bytes(made.cert_chain_pems[0].bytes())
    (folder / "chain.pem").write_bytes(ca.cert_pem.bytes())
    (folder / "fullchain.pem").write_bytes(made.cert_chain_pems[0].bytes() + ca.cert_pem.bytes())


@pytest.mark.parametrize("below", ["live", "live/one.example", "live/one.example/fullchain.pem"])
def test_certificates_as_an_acme_client_keeps_them(tmp_path: Path, ca: trustme.CA, below: str) -> None:
    for name in ("one.example", "two.example"):
        acme(tmp_path / "live" / name, ca, name)
    (tmp_path / "live" / "README").touch()
    assert mistakes(tmp_path, frontend=f'tls = {{certificates = "{tmp_path / below}"}}') == []


def test_a_certificate_and_key_that_do_not_belong_together(tmp_path: Path, ca: trustme.CA) -> None:
    (tmp_path / "a.crt").write_bytes(ca.issue_cert("a").cert_chain_pems[0].bytes())
    (tmp_path / "a.key").write_bytes(ca.issue_cert("a").private_key_pem.bytes())
    found = mistakes(tmp_path, frontend=f'tls = {{certificates = "{tmp_path}"}}')
    assert len(found) == 1 and f"the key in {tmp_path}/a.key belongs to another certificate" in found[0]
    found = mistakes(
        tmp_path, backend=f'tls = {{certificate = "{tmp_path}/a.crt", key = "{tmp_path}/a.key"}}'
    )
    assert len(found) == 1 and "belongs to another certificate" in found[0]


def test_a_certificate_without_its_key(tmp_path: Path, ca: trustme.CA) -> None:
    (tmp_path / "a.pem").write_bytes(ca.issue_cert("a").cert_chain_pems[0].bytes())
    found = mistakes(tmp_path, frontend=f'tls = {{certificates = "{tmp_path}"}}')
    assert len(found) == 1 and "there is no private key in it, and no a.key beside it" in found[0]


def test_a_pipe_among_the_certificates(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pem")
    found = mistakes(tmp_path, frontend=f'tls = {{certificates = "{tmp_path}"}}')
    assert len(found) == 1 and "is no regular file" in found[0]


# Bytes of the file


@pytest.mark.parametrize(
    ("encode", "says"),
    [
        (lambda text: text.encode("utf-8-sig"), "byte order mark (BOM)"),
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: text.encode("utf-16-be"), "looks like UTF-16"),
        (lambda text: text.encode("utf-32"), "UTF-32"),
        (lambda text: text.encode() + b"# \xe4", "not valid TOML"),
    ],
)
def test_an_encoding_is_named(tmp_path: Path, encode: Callable[[str], bytes], says: str) -> None:
    file = file_of(tmp_path)
    file.write_bytes(encode(file.read_text()))
    with pytest.raises(ConfigError) as caught:
        load_file(file)
    assert len(caught.value.problems) == 1 and says in caught.value.problems[0]


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="replace")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "pylb.toml"
    file.write_bytes(data)
    with contextlib.suppress(ConfigError):
        load_file(file)


# The command line


def test_digits_that_are_none() -> None:
    for number in ("²", "٣", "-1", "1.0", "", "9" * 5000):
        done = pylb("scale", "--", number)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, number
        assert done.stderr.startswith("pylb: scale takes a number or 'auto'"), done.stderr
    with pytest.raises(ConfigError, match="^--server.weight: input should be a valid integer"):
        quick(["127.0.0.1:1"], ["127.0.0.1:2,weight=²"])
    for workers in ("²", "1..²", "9" * 5000, "1_0"):
        with pytest.raises(ConfigError, match="^--workers: expected"):
            quick(["127.0.0.1:1"], ["127.0.0.1:2"], workers=workers)


def test_the_version() -> None:
    done = pylb("--version")
    assert done.returncode == 0 and done.stdout.startswith("pylb 0.")


# The property

ADDRESS = st.sampled_from(
    ["127.0.0.1:0", "*:0", "[::1]:0", "localhost:0", "unix:{0}/a", "unix:{0}/./a", "unix:{0}/b", "unix:{0}/ä"]
    + ["unix:{0}/a\0b", "unix:{0}/" + "x" * 120, "127.0.0.1:99999", "a b:1", "[::ffff:127.0.0.1]:0", "x"]
    + ["unix:{0}/\ud800", "unix:{0}/\udcff", "", "unix:", "[::1%lo]:0", "²:0"]
)
NUMBER = st.sampled_from(
    [0, 1, 3, -1, 2**31, 2**40, 10**30, 0.5, 1e9, 1e300, float("inf"), float("nan"), "²"]
) | (st.sampled_from(["1s", "500ms", "16KiB", "9999999h", "99999999GiB", "x", True, None, [], {}]))
NAME = st.sampled_from(
    ["a", "", ".x", "a..b", "ß" * 80, "ß", "localhost", "::1", "10.0.0.1", "a\0b", "\udcff", "*.a"]
)
FILE = st.sampled_from(
    ["{0}/good", "{0}/none", "{0}", "{0}/pipe", "{0}/empty", "{0}/token", "a\0b", "", "/dev/zero"]
)


def section(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


def mostly(good: Any, other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just(good) | st.just(good) | other


DOCUMENT = section(
    backlog=mostly(16, NUMBER),
    admin=ADDRESS,
    admin_token_file=FILE,
    user=mostly("root", NAME),
    group=mostly("root", NAME),
    timeouts=section(connect=mostly(1, NUMBER), tunnel=mostly(1, NUMBER), request=mostly(1, NUMBER)),
    limits=section(header_bytes=mostly(4096, NUMBER), header_count=mostly(9, NUMBER), body_bytes=NUMBER),
    drain=section(timeout=mostly(1, NUMBER), spread=mostly(1, NUMBER), generations=mostly(3, NUMBER)),
    controller=section(name=NAME, weight=mostly(1, NUMBER), token_file=FILE),
)
FRONTENDS = st.lists(
    st.fixed_dictionaries(
        {
            "name": mostly("f", NAME),
            "bind": st.lists(ADDRESS, min_size=1, max_size=2),
            "backend": st.just("b"),
        },
        optional={
            "tls": st.fixed_dictionaries(
                {"certificates": mostly("{0}/good", FILE)},
                optional={"hsts": mostly(1, NUMBER), "client_ca": FILE, "ciphers": NAME},
            ),
            "mode": st.sampled_from(["http", "tcp"]),
            "sni": st.dictionaries(NAME, st.just("b"), max_size=2),
            "body_bytes": NUMBER,
            "trusted_proxies": st.lists(NAME | st.just("10.0.0.0/8"), max_size=1),
        },
    ),
    min_size=1,
    max_size=2,
)
BACKEND = st.fixed_dictionaries(
    {"name": st.just("b"), "server": st.lists(mostly("127.0.0.1:9", ADDRESS), min_size=1, max_size=2)},
    optional={
        "tls": section(verify=st.booleans(), name=NAME, ca=FILE, certificate=FILE, key=FILE),
        "retries": mostly(1, NUMBER),
        "http2": st.booleans(),
    },
)


def filled(value: Any, folder: str) -> Any:
    """The same with the folder's name put in."""
    if isinstance(value, str):
        return value.replace("{0}", folder)
    if isinstance(value, dict):
        return {filled(key, folder): filled(one, folder) for key, one in value.items()}
    return [filled(one, folder) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def folder(ca: trustme.CA) -> str:
    place = Path(tempfile.mkdtemp(prefix="pylb-"))
    (place / "good").mkdir()
    (place / "good" / "a.pem").write_bytes(ca.issue_cert("a").private_key_and_cert_chain_pem.bytes())
    (place / "empty").touch()
    (place / "token").write_text("secret")
    os.mkfifo(place / "pipe")
    return str(place)


async def as_a_worker(arbiter: Arbiter, config: Config) -> None:
    """What a worker makes of it before it serves."""
    inbox, other = socket.socketpair()
    with inbox, other:
        first = arbiter.fleet.newest
        context = WorkerContext(
            *(config, 0, 0, 1, first.listeners.sockets, arbiter.board, other, inbox, [other]),
            *(arbiter.servers.lists(config), 1, first.secrets.listeners, first.secrets.backends),
        )
        Worker(context, asyncio.get_running_loop())


@given(DOCUMENT, FRONTENDS, BACKEND)
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_what_check_accepts_serve_starts_with(
    folder: str, document: dict[str, Any], frontends: list[dict[str, Any]], backend: dict[str, Any]
) -> None:
    whole = filled(
        {"admin": f"unix:{folder}/admin", **document, "frontend": frontends, "backend": [backend]}, folder
    )
    try:
        config = with_files(from_document(whole))
    except ConfigError as error:
        assert error.problems and all(isinstance(one, str) and one for one in error.problems)
        return
    arbiter = Arbiter(config, lambda: config)
    try:
        asyncio.run(as_a_worker(arbiter, config))
    finally:
        arbiter.fleet.newest.listeners.close()
        arbiter.control.admin.close()
        arbiter.inboxes.close()


def test_the_property_is_not_empty(folder: str) -> None:
    accepted = 0

    @given(DOCUMENT, FRONTENDS, BACKEND)
    @settings(max_examples=150, database=None, suppress_health_check=list(HealthCheck))
    def count(document: dict[str, Any], frontends: list[dict[str, Any]], backend: dict[str, Any]) -> None:
        nonlocal accepted
        whole = filled(
            {"admin": f"unix:{folder}/admin", **document, "frontend": frontends, "backend": [backend]}, folder
        )
        with contextlib.suppress(ConfigError):
            with_files(from_document(whole))
            accepted += 1

    count()
    assert accepted >= 3


def test_documents_that_cost_time(tmp_path: Path) -> None:
    """The supervisor does nothing else while it reads them."""
    file = tmp_path / "pylb.toml"
    for text in (
        "a" + ".a" * 200_000 + " = 1",
        "[" + "a." * 200_000 + "a]",
        "a = {" + "b." * 200_000 + "b = 1}",
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match="nested too deeply"):
            read_document(file)
    servers = ", ".join(f'"10.0.{number // 250}.{number % 250}:80"' for number in range(2000))
    file.write_text(f"a = [{servers}]")  # many dots, none of them between keys
    assert len(read_document(file)["a"]) == 2000
    assert tomllib.loads("a.b = 1") == {"a": {"b": 1}}
