"""To which backend a request goes, by its host and by where its path begins.

The first of a frontend's routes that fits decides, and where none does, the frontend's backend stays. Hosts
have no case, and a port doesn't count (RFC 9110 §4.2.3). A path's prefix fits at the end of a segment only:
``/api`` fits ``/api`` and ``/api/x``, and not ``/apis``. The path is compared as it came; a server that
decodes ``/%61pi`` or ``/x/../api`` understands another path. So a route says who answers, not who may ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pylb.config.model import Frontend as FrontendConfig
from pylb.config.model import Route
from pylb.worker.backend import Backend
from pylb.worker.frontend import Result
from pylb.worker.transaction import Transaction

_Prefixes = tuple[tuple[bytes, bytes, Backend], ...]
"""A prefix, the same with a slash behind it, and where it leads."""


def route(config: FrontendConfig, backends: dict[str, Backend]) -> Callable[[Transaction], Result] | None:
    """Choose the backend by the frontend's routes."""
    if not config.routes:
        return None
    others = _prefixes(config.routes, "", backends)
    hosts = {
        one.host.lower().encode(): _prefixes(config.routes, one.host, backends)
        for one in config.routes
        if one.host
    }

    def choose(tx: Transaction) -> Result:
        head = tx.head
        assert head is not None  # it is HTTP's
        routes = hosts.get(_without_port(head.host), others) if hosts else others
        path = head.target.partition(b"?")[0]
        for prefix, folder, backend in routes:
            if path.startswith(folder) or path == prefix:
                tx.backend = backend
                return None
        return None

    return choose


def _prefixes(routes: Sequence[Route], host: str, backends: dict[str, Backend]) -> _Prefixes:
    """The routes for a host, in order, those for all hosts among them."""
    found = []
    for one in routes:
        if not one.host or one.host.lower() == host.lower():
            prefix = one.path.rstrip("/").encode()
            found.append((prefix, prefix + b"/", backends[one.backend]))
    return tuple(found)


def _without_port(host: bytes | None) -> bytes:
    """The name or address in lower case; a trailing dot doesn't count (RFC 3986 §3.2.2)."""
    host = (host or b"").lower()
    if b":" in host and not host.endswith(b"]"):
        host = host.rpartition(b":")[0]
    return host.removesuffix(b".")
