"""The controller as a server, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme

from controller.access import Access, credentials, server_tls
from controller.address import Address, parse
from controller.client import ControllerClient, client_tls, open_stream
from controller.protocol import (
    MAX_LINE,
    Error,
    Grant,
    Hello,
    LineDecoder,
    Message,
    ProtocolError,
    Report,
    Status,
    StatusRequest,
    encode,
)
from controller.server import ControllerServer
from tests.controller.four_cores import FourCores

Start = Callable[..., "asyncio.Future[ControllerServer]"]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    servers: list[ControllerServer] = []

    async def begin(address: str = "", access: Access | None = None) -> Address:
        server = ControllerServer(FourCores(), access)
        await server.start(parse(address or f"unix:{tmp_path}/c.sock"))
        servers.append(server)
        assert server.address is not None
        return server.address

    yield begin
    for server in servers:
        await server.close()


async def talk(
    address: Address, *sent: bytes, until: type, tls: ssl.SSLContext | None = None
) -> list[object]:
    """Send, then read until a message of a kind (or the end)."""
    reader, writer = await open_stream(address, tls)
    for data in sent:
        writer.write(data)
    decoder = LineDecoder()
    got: list[Message | ProtocolError] = []
    while data := await asyncio.wait_for(reader.read(65536), 50):
        got += decoder.feed(data)
        if any(isinstance(message, until) for message in got):
            break
    writer.transport.abort()
    return list(got)


HELLO = encode(Hello("a", 1, 4))


async def test_a_balancer_is_granted_cores(start: Callable[..., object]) -> None:
    address = await start()  # type: ignore[misc]
    got = await talk(address, HELLO, until=Grant)
    assert isinstance(got[-1], Grant)
    assert got[-1].cores == 1
    assert got[-1].idle_cores == 3


async def test_several_balancers_share(start: Callable[..., object]) -> None:
    address = await start()  # type: ignore[misc]
    clients = [ControllerClient(address, Hello(name, 1, 4)) for name in "ab"]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    grants: list[Grant | None] = []
    async with asyncio.timeout(50):
        while [grant and grant.cores for grant in grants] != [2, 2]:
            for client in clients:
                client.report(Report(1, busy=0.0, pressure=4.0))
            await asyncio.sleep(0.01)
            grants = [client.current(asyncio.get_running_loop().time()) for client in clients]
    for task in tasks:
        task.cancel()


async def test_junk_is_answered_and_costs_nobody_else_anything(start: Callable[..., object]) -> None:
    address = await start()  # type: ignore[misc]
    assert isinstance((await talk(address, b"\xff\x00\n", until=Error))[-1], Error)
    got = await talk(address, b"x" * 100_000, until=Grant)
    assert isinstance(got[0], Error)
    assert got[0].code == "line"
    reader, writer = await open_stream(address)  # half-open: says nothing
    reader_2, writer_2 = await open_stream(address)
    writer_2.write(HELLO[:10])  # slow
    assert isinstance((await talk(address, b"junk\n" + HELLO, until=Grant))[-1], Grant)
    writer.transport.abort()
    writer_2.transport.abort()
    assert reader is not reader_2


async def test_a_stranger_that_dribbles_is_dropped(
    start: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.peer.HELLO_SECONDS", 0.1)
    address = await start("tcp:127.0.0.1:0", Access(token="secret"))  # type: ignore[misc]
    reader, writer = await open_stream(address)

    async def dribble() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 50) == b""
    dribbling.cancel()


async def test_report_needs_a_hello(start: Callable[..., object]) -> None:
    address = await start()  # type: ignore[misc]
    got = await talk(address, encode(Report(1)), until=Error)
    assert isinstance(got[-1], Error)
    assert got[-1].code == "hello"


@pytest.mark.parametrize("allowed", [False, True])
async def test_over_a_unix_socket_the_user_counts(
    start: Callable[..., object], monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    address = await start(access=Access(uids=frozenset({4711} if allowed else ())))  # type: ignore[misc]
    assert stat.S_IMODE(os.stat(address.host).st_mode) == (0o666 if allowed else 0o600)
    monkeypatch.setattr("controller.peer.credentials", lambda sock: (1, 4711))
    got = await talk(address, HELLO, until=Grant if allowed else Error)
    assert isinstance(got[-1], Grant if allowed else Error)
    if isinstance(got[-1], Error):
        assert got[-1].code == "uid"


async def test_the_user_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    assert credentials(ours) == (os.getpid(), os.getuid())
    ours.close()
    theirs.close()


async def test_token_over_tcp(start: Callable[..., object]) -> None:
    address = await start("tcp:127.0.0.1:0", Access(token="secret"))  # type: ignore[misc]
    got = await talk(address, HELLO, until=Error)
    assert isinstance(got[-1], Error)
    assert got[-1].code == "token"
    assert len(await talk(address, b"junk\n" * 1000, until=Grant)) == 1
    assert isinstance((await talk(address, encode(Hello("a", 1, 4, 1.0, "secret")), until=Grant))[-1], Grant)


async def test_why_the_controller_closed_is_kept() -> None:
    client = ControllerClient(parse("unix:/none"), Hello("a", 1, 4))
    reader = asyncio.StreamReader()
    reader.feed_data(encode(Error("token", "wrong token")))
    reader.feed_eof()
    assert not await client._listen(reader)
    assert client.problem == "token: wrong token"


async def test_mutual_tls(start: Callable[..., object], tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name, identity in (("server", "127.0.0.1"), ("client", "balancer")):
        issued = ca.issue_cert(identity)
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        for chain in issued.cert_chain_pems:
            chain.write_to_path(str(tmp_path / f"{name}.pem"), append=True)
    tls = server_tls(str(tmp_path / "server.pem"), str(tmp_path / "server.key"), str(tmp_path / "ca.pem"))
    address = await start("tcp:127.0.0.1:0", Access(tls=tls))  # type: ignore[misc]
    known = client_tls(str(tmp_path / "ca.pem"), str(tmp_path / "client.pem"), str(tmp_path / "client.key"))
    assert isinstance((await talk(address, HELLO, until=Grant, tls=known))[-1], Grant)
    stranger = client_tls(str(tmp_path / "ca.pem"))
    with pytest.raises(OSError):
        assert await talk(address, HELLO, until=Grant, tls=stranger) == []
        raise ConnectionError("closed without a word")


async def test_status_command(start: Callable[..., object]) -> None:
    address = await start()  # type: ignore[misc]
    got = await talk(address, encode(StatusRequest()), until=Status)
    assert isinstance(got[-1], Status)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller", "status", "--address", str(address), "--json"),
        stdout=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert json.loads(out)["idle_cores"] == 4


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Balancers that say nothing are kept, however long a busy machine takes to start the command."""
    monkeypatch.setattr("controller.peer.IDLE_SECONDS", 3600.0)


@pytest.mark.usefixtures("patient")
async def test_status_of_many_balancers(start: Callable[..., object]) -> None:
    address = await start()  # type: ignore[misc]
    writers = [(await open_stream(address))[1] for _ in range(350)]
    for number, writer in enumerate(writers):
        writer.write(encode(Hello(f"{number} {'x' * 120}", 1, 4)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller", "status", "--address", str(address), "--json"),
        stdout=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    for writer in writers:
        writer.transport.abort()
    assert len(out) > MAX_LINE
    assert len(json.loads(out)["leases"]) == 350


@pytest.mark.usefixtures("patient")
async def test_status_shows_names_as_they_are(start: Callable[..., object]) -> None:
    address = await start()  # type: ignore[misc]
    _, writer = await open_stream(address)
    writer.write(encode(Hello("[/red]", 1, 4)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller", "status", "--address", str(address)), stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    writer.transport.abort()
    assert b"[/red]" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen", "tcp:127.0.0.1:0"], "--token-file"),
        (["--listen", "nonsense"], "unix:PATH"),
        (["--source", "magic"], "measured"),
        (["--source", "table:/does/not/exist"], "No such file"),
        (["--listen", "unix:/does/not/exist/x.sock"], "can't listen"),
        (["status", "--address", "unix:/does/not/exist"], "no controller"),
    ],
)
def test_mistakes_end_with_one_line_and_code_2(arguments: list[str], says: str) -> None:
    done = subprocess.run([sys.executable, "-m", "controller", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
