"""Several listeners of one controller, and the unix sockets that Firecracker's machines come by."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from controller.address import Address, parse
from controller.client import open_stream
from controller.protocol import Error, Grant, Hello, LineDecoder, Message, ProtocolError, Report, encode
from controller.server import Access, ControllerServer
from tests.controller.four_cores import FourCores, until


async def talk(address: Address, *messages: Hello | Report) -> Message | ProtocolError:
    """The first answer."""
    reader, writer = await open_stream(address)
    writer.write(b"".join(map(encode, messages)))
    decoder = LineDecoder()
    async with asyncio.timeout(50):
        while not (found := decoder.feed(await reader.read(65536))):
            pass
    writer.transport.abort()
    return found[0]


def test_an_address_of_firecrackers() -> None:
    address = parse("hvsock:/srv/jail/1/v.sock:5000")
    assert (address.kind, address.path, str(address)) == (
        "hvsock", "/srv/jail/1/v.sock_5000", "hvsock:/srv/jail/1/v.sock:5000",
    )  # fmt: skip
    for wrong in ("hvsock:/v.sock", "hvsock:/v.sock:x", "hvsock::5000", f"hvsock:/{'x' * 102}:5000"):
        with pytest.raises(ValueError, match="hvsock:PATH:PORT"):
            parse(wrong)
    assert len(parse(f"hvsock:/{'x' * 101}:5000").path) == 107


async def test_one_controller_listens_in_several_places(tmp_path: Path) -> None:
    places = [parse(f"unix:{tmp_path}/c.sock"), parse(f"hvsock:{tmp_path}/v1:52"), parse("tcp:127.0.0.1:0")]
    server = ControllerServer(FourCores(), Access("secret"))
    await server.start(*places)
    assert server.addresses[:2] == places[:2]
    assert server.addresses[2].port > 0
    assert (tmp_path / "v1_52").is_socket()
    # On a unix socket the user counts; who comes by TCP must know the token, whatever else is listened on.
    for address in server.addresses[:2]:
        assert isinstance(await talk(address, Hello("a", 1, 4)), Grant)
    refused = await talk(server.addresses[2], Hello("a", 1, 4))
    assert isinstance(refused, Error)
    assert refused.code == "token"
    assert isinstance(await talk(server.addresses[2], Hello("a", 1, 4, token="secret")), Grant)
    await server.close()
    assert os.listdir(tmp_path) == []


async def test_all_are_listened_on_or_none(tmp_path: Path) -> None:
    server = ControllerServer(FourCores())
    with pytest.raises(OSError, match="none/c.sock"):
        await server.start(parse(f"unix:{tmp_path}/c.sock"), parse(f"unix:{tmp_path}/none/c.sock"))
    assert os.listdir(tmp_path) == []
    await server.start(parse(f"unix:{tmp_path}/c.sock"))  # the failed try holds nothing
    await server.close()


def test_the_command_says_which_address_is_no_good(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "controller", "--listen", f"unix:{tmp_path}/c.sock"]
    done = subprocess.run(
        [*command, "--listen", f"hvsock:{tmp_path}/none/v:52"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"can't listen on hvsock:{tmp_path}/none/v:52: No such file or directory\n" in done.stderr
    done = subprocess.run([*command, "--listen", "tcp:127.0.0.1:0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--token-file" in done.stderr


class LateHost(FourCores):
    """A host whose machines aren't known yet when the first balancer comes, as while libvirt is asked."""

    def __init__(self) -> None:
        self.known: dict[int, str] = {}

    def machine(self, pid: int) -> str | None:
        return self.known.get(pid)

    def bounds(self, machines: Collection[str]) -> Mapping[str, float]:
        return {machine: 3.0 if machine == "lb" else 0.0 for machine in machines}

    def needs(self) -> Mapping[str, tuple[float, float]]:
        return {}


async def test_a_machine_that_is_known_later_is_found(tmp_path: Path) -> None:
    host = LateHost()
    server = ControllerServer(host)
    await server.start(parse(f"unix:{tmp_path}/c.sock"))
    reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/c.sock")
    writer.write(encode(Hello("lb", 1, 8, session="s")) + encode(Report(1, 0.0, 8.0, seq=1)))
    await until(lambda: server.table.holders)
    (holder,) = server.table.holders.values()
    await until(lambda: holder.machine.startswith("no machine"))
    host.known[os.getpid()] = "lb"
    await until(lambda: holder.machine == "lb" and holder.cores == 3)
    writer.transport.abort()
    await server.close()
