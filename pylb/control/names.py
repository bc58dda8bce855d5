"""Names of the file's own servers that can't be resolved when pylb starts: said once, and again when they can
be.

Within `pylb.control`, below `discovery`. The workers look such a name up with each connection that they open,
so nothing depends on what is found here: a server whose name comes later serves from then on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

from pylb.config.address import Address
from pylb.config.model import Config
from pylb.log import log

_AGAIN = 5.0  # seconds until a name is looked up again
_WITHIN = 10.0  # seconds for all names of one look


class Names:
    """The servers whose addresses are names, until each was found once."""

    def __init__(self, config: Config) -> None:
        self.unresolved: dict[tuple[str, str], Address] = {
            (backend.name, server.name): server.address
            for backend in config.backends
            for server in backend.servers
            if _is_name(server.address)
        }
        """By backend and server."""
        self._errors: dict[str, str] = {}  # by host

    async def run(self) -> None:
        """Look them up until all were found."""
        while self.unresolved:
            await self.look()
            await asyncio.sleep(_AGAIN)
        await asyncio.get_running_loop().create_future()

    async def look(self) -> None:
        """Look each name up once."""
        hosts = list(dict.fromkeys(address.host for address in self.unresolved.values()))
        found = dict(zip(hosts, await asyncio.gather(*map(_lookup, hosts)), strict=True))
        for (backend, server), address in list(self.unresolved.items()):
            why, before = found[address.host], self._errors.get(address.host)
            if not why:
                del self.unresolved[backend, server]
                if before is not None:
                    log.info("server %s/%s: %s can be resolved now", backend, server, address.host)
            elif before is None:
                log.warning(
                    "server %s/%s: %s can't be resolved (%s); it is looked up again with each connection",
                    *(backend, server, address.host, why),
                )
        self._errors.update((host, why) for host, why in found.items() if why)

    def status(self) -> list[dict[str, Any]]:
        """An entry for each that couldn't be resolved yet."""
        return [
            {
                **{
                    "backend": backend,
                    "source": f"server {server}",
                    "asks": f"name {address.host}",
                    "servers": 0,
                },
                **{"answered": None, "next": _AGAIN, "doubted": False, "failures": 1},
                "error": self._errors[address.host],
            }
            for (backend, server), address in self.unresolved.items()
            if address.host in self._errors
        ]


async def _lookup(host: str) -> str:
    """Why a name can't be resolved; empty where it can."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_WITHIN):
            await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        return f"no answer within {_WITHIN:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _is_name(address: Address) -> bool:
    if address.is_unix:
        return False
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return True
    return False
