"""``python -m bench.spoken``: put the same odd bytes to pylb, HAProxy and nginx, and write what each says.

Shown are the statuses that the client gets within a second, and whether its connection is still open then; of
requests whether a server has got one. Needs haproxy and nginx.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench.rig import report
from bench.rig.command import need, parser
from bench.rig.peers import Site, running, versions
from bench.spoken.cases import CHUNKED, OK, REQUESTS, RESPONSES

NAMES = ("pylb", "haproxy", "nginx")
SECONDS = 1.0
AT_ONCE = 20
_GOOD = OK + b"Content-Length: 2\r\n\r\nok"
_HEAD = " (HEAD)"


class _Origin:
    """Answers ``/r5`` with the fifth response, and all else as it should be."""

    def __init__(self) -> None:
        self.asked: set[bytes] = set()
        """Paths."""
        self._responses = list(RESPONSES.values())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                _, path, _ = head.split(b" ", 2)
                self.asked.add(path)
                number = re.fullmatch(rb"/r(\d+)", path)
                data, close = self._responses[int(number[1])] if number else (_GOOD, False)
                writer.write(data)
                if close:
                    break
        except (OSError, EOFError, ValueError):
            pass
        writer.close()


async def _ask(port: int, data: bytes) -> str:
    """Send it, and tell what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    out = b""
    end = "open"
    try:
        async with asyncio.timeout(SECONDS):
            while piece := await reader.read(65536):
                out += piece
            end = "closed"
    except TimeoutError:
        pass
    except OSError:
        end = "reset"
    writer.close()
    statuses = [status.decode() for status in re.findall(rb"HTTP/1\.[01] (\d+)", out)]
    return f"{', '.join(statuses) or 'nothing'}; {end}"


async def _each(names: Sequence[str], ask: Callable[[int], Awaitable[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for first in range(0, len(names), AT_ONCE):
        some = range(first, min(first + AT_ONCE, len(names)))
        answers = await asyncio.gather(*(ask(number) for number in some))
        found |= dict(zip([names[number] for number in some], answers, strict=True))
    return found


async def _one(
    name: str, origin: _Origin, server: str, folder: Path
) -> tuple[dict[str, str], dict[str, str]]:
    site = Site([server])
    loop = asyncio.get_running_loop()
    stage = running(name, folder, site)
    await loop.run_in_executor(None, stage.__enter__)
    try:

        async def response(number: int) -> str:
            method = b"HEAD" if list(RESPONSES)[number].endswith(_HEAD) else b"GET"
            return await _ask(site.port, b"%b /r%d HTTP/1.1\r\nHost: a\r\n\r\n" % (method, number))

        async def request(number: int) -> str:
            path = b"/q%d" % number
            said = await _ask(site.port, list(REQUESTS.values())[number].replace(b"/ok", path))
            return said + ("; passed on" if any(path in asked for asked in origin.asked) else "")

        responses = await _each(list(RESPONSES), response)
        origin.asked.clear()
        return responses, await _each(list(REQUESTS), request)
    finally:
        await loop.run_in_executor(None, stage.__exit__, None, None, None)


def _shown(data: bytes) -> str:
    """Bytes for a table."""
    short = data.replace(OK, b"<OK>") if data != CHUNKED else data
    text = repr(short)[2:-1].replace("|", "\\|").replace("`", "'")
    return f"`{text if len(text) <= 90 else text[:87] + '...'}`"


async def _all() -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    origin = _Origin()
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0, limit=1 << 20, backlog=1000)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    responses: dict[str, dict[str, str]] = {}
    requests: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            responses[name], requests[name] = await _one(name, origin, address, Path(folder, name))
    server.close()
    return responses, requests


def main() -> None:
    """Ask all of them, and write the page."""
    options = parser(__doc__)
    chosen = options.parse_args()
    need(options, "haproxy", "nginx")
    responses, requests = asyncio.run(_all())
    peers = ", ".join(f"{name} {version}" for name, version in versions("haproxy", "nginx").items())
    lines = ["# HTTP as it is spoken", "", f"`python -m bench.spoken`; {report.in_words()}; {peers}.", ""]
    lines += ["What a client gets within a second, and its connection then. `<OK>` is a status line.", ""]
    for title, said, found in (
        ("A server says", {name: data for name, (data, _) in RESPONSES.items()}, responses),
        ("A client says", REQUESTS, requests),
    ):
        lines += [f"| {title} | | {' | '.join(NAMES)} |", "|---|---|---|---|---|"]
        for name, data in said.items():
            lines.append(f"| {name} | {_shown(data)} | {' | '.join(found[who][name] for who in NAMES)} |")
        lines.append("")
    report.write("spoken", {"responses": responses, "requests": requests}, lines[:-1], chosen.out)


if __name__ == "__main__":
    main()
