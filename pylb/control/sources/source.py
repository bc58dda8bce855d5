"""What all sources of servers have in common. The lowest floor of `pylb.control.sources`."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from dataclasses import dataclass

from pylb.discover.found import Answer


@dataclass(frozen=True, slots=True)
class Access:
    """What a source needs of files that the control plane may have no right to read."""

    token: str = ""
    tls: ssl.SSLContext | None = None


class Source(ABC):
    """Somebody who knows a backend's servers."""

    limit: float | None = None
    """Seconds that `look` may take; None where it waits for changes itself."""

    @abstractmethod
    async def look(self) -> Answer:
        """All servers that there are now.

        Raises:
            Failed: there is no answer, or none that can be used.
            OSError: likewise.
        """

    async def changed(self) -> None:
        """Wait until there may be another answer; for ever where nobody tells."""
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:  # noqa: B027
        """Let go of what is open; by default there is nothing."""
