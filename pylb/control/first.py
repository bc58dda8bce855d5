"""The first checks of servers that a reload brings, in a process of their own, before the generation serves.

Beside `main`, above `checks`. Only the supervisor and this process know these servers yet, so this is the one
that writes of their health; it is gone, or killed, before the control plane hears of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from pylb.control.checks import Checks
from pylb.control.context import FirstContext
from pylb.control.servers import Server
from pylb.servers import Table

_LONGEST = 60.0  # seconds


def run(context: FirstContext) -> None:
    """Check each server once; called in the forked process."""
    with contextlib.suppress(TimeoutError):  # the supervisor is gone, or it had ended this before
        asyncio.run(asyncio.wait_for(_main(context), _LONGEST))


async def _main(context: FirstContext) -> None:
    checked = asyncio.Event()  # also where a check has changed nothing in the table
    checks = Checks(
        Table(context.board),
        context.contexts,
        kept={},
        keep=lambda key, value: checked.set(),
        changed=checked.set,
        unsafe_regex=context.unsafe_regex,
        silent=True,  # the control plane says it
    )
    checks.change([Server(*one) for one in context.servers], [])
    indices = [index for _, _, index in context.servers]
    while not all(_known(checks.status(index)) for index in indices):
        checked.clear()
        await checked.wait()


def _known(status: dict[str, Any] | None) -> bool:
    return status is None or status["last"] is not None
