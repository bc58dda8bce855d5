"""The servers of the scenes: HTTP/1 by path, an echo, HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib

import h2.config
import h2.connection
import h2.events
import h2.exceptions


async def http1_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            if head.startswith(b"PROXY "):
                head = head.split(b"\r\n", 1)[1]
                path = head.split(b" ", 2)[1]
            if path == b"/upgrade":
                writer.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
                )
                while data := await reader.read(100):
                    writer.write(data)
                break
            if b"content-length: 10" in head.lower():
                await reader.readexactly(10)
            if b"transfer-encoding: chunked" in head.lower():
                await reader.readuntil(b"0\r\n\r\n")
            if path == b"/drop":
                break
            if path == b"/junk":
                writer.write(b"JUNK\r\n\r\n")
                break
            if path == b"/never":
                await reader.read()
                break
            if path == b"/chunked":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n")
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(b"ok\r\n0\r\n\r\n")
            elif path == b"/close":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\nok")
                break
            elif path == b"/hints":
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
                if not head.startswith(b"HEAD"):
                    writer.write(b"ok")
    with contextlib.suppress(ConnectionError):
        writer.close()


async def echo_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()


async def http2_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    h2c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    h2c.initiate_connection()
    with contextlib.suppress(ConnectionError):
        writer.write(h2c.data_to_send())
        while data := await reader.read(65536):
            for event in h2c.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    number = event.stream_id or 0
                    with contextlib.suppress(h2.exceptions.StreamClosedError):  # it was reset at once
                        h2c.send_headers(number, [(":status", "200"), ("content-length", "2")])
                        h2c.send_data(number, b"ok", end_stream=True)
            writer.write(h2c.data_to_send())
        writer.close()
