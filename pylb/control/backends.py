"""What status says of backends: how many of their servers are usable, and whether that is enough.

Beside `ejections`, below `main`. It reads the table of servers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pylb.control.servers import Server, Servers
from pylb.health import panic
from pylb.servers import members


def told(servers: Servers, panics: Callable[[str], bool]) -> list[dict[str, Any]]:
    """One entry per backend that has servers.

    Args:
        panics: whether all servers of a backend are used, healthy or not.
    """
    of: dict[str, list[Server]] = {}
    for server in servers:
        of.setdefault(server.backend.name, []).append(server)
    found = []
    for name, some in of.items():
        least = some[0].backend.min_servers
        known = ((server.index, server.config.weight, server.config.backup) for server in some)
        usable = panic.usable(members(servers.table, known))
        entry = {"name": name, "servers": len(some), "usable": usable, "min_servers": least}
        found.append({**entry, "short": usable < least, "panic": panics(name)})
    return found
