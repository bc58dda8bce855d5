"""The balancer's end of the protocol, with a controller that is scripted."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

from controller.address import Address
from controller.client import ControllerClient
from controller.protocol import Grant, Hello, LineDecoder, Report, encode


async def test_a_new_connection_begins_with_how_the_balancer_is(tmp_path: Path) -> None:
    """A controller that has begun anew would else take what it uses for somebody else's use."""
    heard: asyncio.Queue[object] = asyncio.Queue()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Grant(0, 1, 3.0)))
        decoder, messages = LineDecoder(), 0
        while messages < 2:
            for message in decoder.feed(await reader.read(65536)):
                heard.put_nowait(message)
                messages += 1
        writer.close()

    path = str(tmp_path / "controller.sock")
    server = await asyncio.start_unix_server(connection, path)
    client = ControllerClient(Address("unix", path), Hello("a", 1, 8))
    assert client.since == math.inf
    running = asyncio.create_task(client.run())
    assert isinstance(await heard.get(), Hello)
    while not client.connected:
        await asyncio.sleep(0.001)
    first = client.since
    client.report(Report(8, busy=7.5, pressure=8.0))
    assert isinstance(await heard.get(), Report)
    # The controller has closed the connection, and knows nothing.
    assert isinstance(await heard.get(), Hello)
    report = await heard.get()
    assert isinstance(report, Report)
    assert report.busy == 7.5
    while client.since == first:
        await asyncio.sleep(0.001)
    running.cancel()
    server.close()
