"""A file that lists servers: read when it has changed. Raised files (a rename, a link that moves) count."""

from __future__ import annotations

import asyncio
import os

from pylb.config.files import read_regular
from pylb.config.model import Discover
from pylb.control.sources.source import Source
from pylb.discover import document
from pylb.discover.found import Answer, Failed

LARGEST = 1 << 20
"""Bytes."""


class FileSource(Source):
    """A path, looked at once a second by a thread, since a disk may let one wait."""

    def __init__(self, section: Discover) -> None:
        self.limit = section.timeout
        self._path = section.file or ""
        self._port = section.port
        self._version: object = None
        self._answer: Answer | None = None

    async def look(self) -> Answer:
        version, data = await asyncio.to_thread(_read, self._path, self._version)
        if data is not None:
            self._version, self._answer = None, None
            self._answer = Answer(document.lines_or_json(data, self._port))
            self._version = version
        if self._answer is None:
            raise Failed("it has not been read")
        return self._answer


def _read(path: str, unless: object) -> tuple[object, bytes | None]:
    """The file's version, and what it holds unless that is still the same; raises OSError."""
    about = os.stat(path)
    version = about.st_mtime_ns, about.st_size, about.st_ino
    return version, None if version == unless else read_regular(path, LARGEST)
