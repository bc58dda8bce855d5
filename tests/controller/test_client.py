"""The balancer's end of the protocol, with a controller that is scripted."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

from controller.address import Address
from controller.client import ControllerClient
from controller.protocol import Grant, Hello, Report, encode


async def test_a_new_connection_begins_with_how_the_balancer_is(tmp_path: Path) -> None:
    """A controller that has begun anew would else lease the cores that it uses to others."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Grant(0, 1, 3.0)))
        for _ in range(2):
            heard.put_nowait(await reader.readline())
        writer.close()

    path = str(tmp_path / "controller.sock")
    server = await asyncio.start_unix_server(connection, path)
    hello, report = Hello("a", 1, 8), Report(8, busy=7.5, pressure=8.0)
    client = ControllerClient(Address("unix", path), hello)
    assert client.since == math.inf
    running = asyncio.create_task(client.run())
    assert await heard.get() == encode(hello)
    while not client.connected:
        await asyncio.sleep(0)
    first = client.since
    client.report(report)
    assert await heard.get() == encode(report)
    # The controller has closed the connection, and knows nothing.
    assert [await heard.get(), await heard.get()] == [encode(hello), encode(report)]
    while client.since == first:
        await asyncio.sleep(0)
    running.cancel()
    server.close()
