"""``python -m bench.failures.httpx_client URL COUNT own|shared|http1|events``: requests by httpx.

Over HTTP/2 unless ``http1`` is asked for, each client on a connection of its own unless it is shared, until
standard input ends; then prints what became of them. ``events`` reads an event stream instead, from its first
line to ``data: end``, as often as it takes.
"""

from __future__ import annotations

import asyncio
import json
import sys

import httpx


class _Found:
    def __init__(self) -> None:
        self.answered = self.failed = 0
        self.first = ""
        self.stop = False

    def good(self) -> None:
        self.answered += 1
        if self.answered == 1:
            print("ready", flush=True)

    def bad(self, error: Exception) -> None:
        self.failed += 1
        self.first = self.first or repr(error)


def _client(http1: bool = False) -> httpx.AsyncClient:
    return httpx.AsyncClient(http2=not http1, http1=http1, verify=False, timeout=60)


async def _requests(url: str, client: httpx.AsyncClient, found: _Found) -> None:
    while not found.stop:
        try:
            response = await client.get(url)
            response.raise_for_status()
        except httpx.HTTPError as error:
            found.bad(error)
        else:
            found.good()
        await asyncio.sleep(0.002)


async def _events(url: str, found: _Found) -> None:
    while not found.stop:
        try:
            async with _client() as client, client.stream("GET", url) as response:
                async for line in response.aiter_lines():
                    if line == "data: first":
                        found.good()
                    elif line == "data: end":
                        return
        except httpx.HTTPError as error:
            found.bad(error)


async def _main(url: str, count: int, kind: str) -> None:
    found = _Found()
    shared = _client()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            if kind == "events":
                group.create_task(_events(url, found))
            else:
                client = shared if kind == "shared" else _client(kind == "http1")
                group.create_task(_requests(url, client, found))
        await asyncio.to_thread(sys.stdin.read)
        found.stop = True
    print(json.dumps({"answered": found.answered, "failed": found.failed, "first": found.first}))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
