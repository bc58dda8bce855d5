"""A JSON document that an HTTP server has, asked for again and again; unchanged ones aren't sent again.

Redirects aren't followed, certificates are always verified, and no more than `LARGEST` bytes are read.
"""

from __future__ import annotations

import ssl

import aiohttp

from pylb import __version__
from pylb.config.model import Discover
from pylb.control.sources.source import Access, Source
from pylb.discover import document
from pylb.discover.found import Answer, Failed

LARGEST = 1 << 20
"""Bytes."""
_TAGS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}


class HttpSource(Source):
    """A URL."""

    def __init__(self, section: Discover, access: Access) -> None:
        self.limit = section.timeout
        self._url = section.http or ""
        self._port = section.port
        self._tls: ssl.SSLContext | bool = access.tls or True
        # A body that is small on the way could be a large one: none is compressed.
        self._fields = {
            "Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": f"pylb/{__version__}"
        }  # fmt: skip
        if access.token:
            self._fields["Authorization"] = f"Bearer {access.token}"
        self._session: aiohttp.ClientSession | None = None
        self._conditions: dict[str, str] = {}
        self._answer: Answer | None = None

    async def look(self) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with self._session.get(
                self._url, headers=self._fields | self._conditions, ssl=self._tls, allow_redirects=False
            ) as response:
                return await self._read(response)
        except aiohttp.ClientError as error:
            raise Failed(str(error) or type(error).__name__) from None

    async def _read(self, response: aiohttp.ClientResponse) -> Answer:
        if response.status == 304 and self._answer is not None:
            return self._answer
        if response.status != 200:
            raise Failed(f"it answers with status {response.status}")
        data = b""
        async for piece in response.content.iter_any():
            data += piece
            if len(data) > LARGEST:
                raise Failed(f"it answers with more than {LARGEST >> 10} KiB")
        self._conditions, self._answer = {}, None
        self._answer = Answer(document.of_json(data, self._port))
        for field, condition in _TAGS.items():
            if field in response.headers:
                self._conditions[condition] = response.headers[field]
        return self._answer

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
