"""A reverse proxy of a few lines with aiohttp, as people write it: a client session behind a web server.

``python -m bench.rig.peer_aiohttp FOLDER WORKERS PORT TLS_PORT SERVER…``; one process for each worker, on
``SO_REUSEPORT``, with uvloop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import ssl
import sys

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDict

_HOP_BY_HOP = ("Connection", "Keep-Alive", "Transfer-Encoding", "TE", "Trailer", "Upgrade")


async def serve(folder: str, ports: list[int], servers: list[str]) -> None:
    """Serve until the process ends."""
    turn = itertools.cycle(servers)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            headers: CIMultiDict[str] = CIMultiDict(request.headers)
            for name in _HOP_BY_HOP:
                headers.popall(name, None)
            headers["X-Forwarded-For"] = request.remote or ""
            body = request.content if request.body_exists else None
            url = f"http://{next(turn)}{request.raw_path}"
            async with session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name not in _HOP_BY_HOP}
                response = web.StreamResponse(status=answer.status, headers=kept)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=300)
        await runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(f"{folder}/both.pem")
        await web.TCPSite(runner, "127.0.0.1", ports[0], reuse_port=True, backlog=4096).start()
        site = web.TCPSite(
            runner, "127.0.0.1", ports[1], ssl_context=context, reuse_port=True, backlog=4096
        )  # fmt: skip
        await site.start()
        await asyncio.Event().wait()


def main() -> None:
    folder, workers, *rest = sys.argv[1:]
    ports, servers = [int(port) for port in rest[:2]], rest[2:]
    children = []
    for _ in range(int(workers)):
        pid = os.fork()
        if not pid:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(folder, ports, servers))
        children.append(pid)

    def end(*_: object) -> None:
        for child in children:
            os.kill(child, signal.SIGKILL)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.pause()


if __name__ == "__main__":
    main()
