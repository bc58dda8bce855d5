"""A line of the access log of a transaction, as one function that is made when the configuration is read.

Floor: phases; above `logfields`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pylb.accesslog.template import VARIABLES, Format, Variable
from pylb.config.model import Frontend as FrontendConfig
from pylb.worker.backend import Server
from pylb.worker.core import Core
from pylb.worker.phases.logfields import Fields
from pylb.worker.phases.loginline import LOWERED, LOWERED_FIRST, USUAL, Get, Inline
from pylb.worker.transaction import Transaction

_OF_HEAD = frozenset(
    {"method", "uri", "raw_path", "query", "path", "path.", "argument.", "host", "protocol"}
    | {"header.", "cookie."}
)
_OF_SERVER = frozenset(
    {"frontend.name", "backend.name", "server.name", "server.address", "(server)"}
    | {name for name in VARIABLES if name.startswith("connections.")}
)
_OF_CLIENT = frozenset({"client.ip", "client.port"} | {name for name in VARIABLES if name.startswith("tls.")})


def line(
    format_: Format, config: FrontendConfig, core: Core, add: Callable[[str], None] | None = None
) -> Callable[[Transaction], Any]:
    """A function that writes a transaction as a line, with its end; and gives it to ``add``, if there is one.

    Parts that are next to each other and depend on one thing alone (the client, the head, the server) are
    written once for as long as that stays the same.
    """
    fields = Fields(config, core, format_.style)
    labelled = fields.many_clients
    found: list[str | Get] = []
    rest: list[str | Variable] = [*format_.parts, "\n"]
    while rest:
        run = _run(rest)
        first = rest[0]
        joined = _together([part if isinstance(part, str) else fields.written(part) for part in run])
        if isinstance(first, str):
            found.append(first)
        elif first.name in _OF_HEAD:
            of_head = [part if isinstance(part, str) else fields.of_head(part) for part in run]
            found.append(_once_for_a_head(_together(of_head), joined))
        elif first.name in _OF_SERVER:
            found.append(_once_for_a_server(joined, core))
        elif first.name in _OF_CLIENT and not labelled:
            labelled = True  # there is one place for it
            found.append(_once_for_a_client(joined))
        else:
            run = run[:1]
            found.append(fields.written(first))
        del rest[: len(run)]
    return _together(found, add)


def _run(parts: Sequence[str | Variable]) -> list[str | Variable]:
    """The first part and those behind it that depend on the same thing, with the texts between them."""
    first = parts[0]
    if isinstance(first, str):
        return [first]
    same = next((some for some in (_OF_HEAD, _OF_SERVER, _OF_CLIENT) if first.name in some), frozenset[str]())
    end = 1
    for position, part in enumerate(parts):
        if isinstance(part, Variable):
            if part.name not in same:
                break
            end = position + 1
    return list(parts[:end])


def _together(
    parts: Sequence[str | Get], add: Callable[[str], None] | None = None
) -> Callable[[Transaction], Any]:
    """A function that writes texts and values one behind the other.

    It is an f-string, which takes half the time of ``%`` and a list of values, made as a tree, so that texts
    of the configuration are never read as source. It is another one where `USUAL` holds, if some of the
    values have less to do then.
    """
    if len(parts) == 1 and not isinstance(parts[0], str) and not isinstance(parts[0], Inline):
        return parts[0]  # the only value is text already
    names: dict[str, object] = {}
    source: list[str | ast.expr] = []
    usual: list[str | ast.expr] = []
    lowered = LOWERED_FIRST
    for number, part in enumerate(parts):
        if isinstance(part, str):
            source.append(part)
            usual.append(part)
        elif isinstance(part, Inline):
            names |= part.names
            text = part.source
            if LOWERED in text:
                # Of the fields that are looked for, the first one has the head made small letters for all.
                text, lowered = text.replace(LOWERED, lowered), LOWERED
            source.append(_expression(text))
            usual.append(source[-1] if part.usual == part.source else _expression(part.usual))
        else:
            names[f"part{number}"] = part
            source.append(_expression(f"part{number}(tx)"))
            usual.append(source[-1])
    body: ast.expr = _joined(source)
    if any(one is not other for one, other in zip(source, usual, strict=True)):
        body = ast.IfExp(_expression(USUAL), _joined(usual), body)
    if add is not None:
        names["add"] = add
        body = ast.Call(_expression("add"), [body], [])
    tree = ast.Expression(_expression("lambda tx: 0"))
    assert isinstance(tree.body, ast.Lambda)
    tree.body.body = body
    code = compile(ast.fix_missing_locations(tree), "a line of the access log", "eval")
    function: Callable[[Transaction], Any] = eval(code, names)
    return function


def _expression(source: str) -> ast.expr:
    return ast.parse(source, mode="eval").body


def _joined(parts: Iterable[str | ast.expr]) -> ast.JoinedStr:
    """An f-string; texts and constants that follow each other are one."""
    values: list[ast.expr] = []
    for part in parts:
        if isinstance(part, ast.expr) and not isinstance(part, ast.Constant):
            values.append(ast.FormattedValue(part, -1))
            continue
        text = str(part.value) if isinstance(part, ast.Constant) else str(part)
        if values and isinstance(values[-1], ast.Constant):
            text = str(values.pop().value) + text  # type: ignore[attr-defined]
        values.append(ast.Constant(text))
    return ast.JoinedStr(values)


class _OfHead:
    """What was written of the last head."""

    __slots__ = ("raw", "protocol", "text", "_render", "_without")

    def __init__(self, render: Callable[[Transaction], str], without: Callable[[Transaction], str]) -> None:
        self._render = render
        self._without = without
        self.raw: bytes | None = None
        self.protocol = self.text = ""

    def of(self, tx: Transaction) -> str:
        """The text for a transaction, which may be kept."""
        head = tx.head
        if head is None:
            return self._without(tx)
        self.raw = None  # should this fail
        text = self.text = self._render(tx)
        self.raw, self.protocol = head.raw, tx.client.protocol
        return text


def _once_for_a_head(render: Callable[[Transaction], str], without: Callable[[Transaction], str]) -> Get:
    """Clients mostly repeat a head, which is then the same object; ``without`` writes where there is none."""
    same = "tx.head.raw is last.raw and tx.client.protocol == last.protocol"
    last = _OfHead(render, without)
    return Inline(
        f"last.text if tx.head is not None and {same} else last.of(tx)",
        f"last.text if {same} else last.of(tx)",
        last=last,
    )


def _once_for_a_client(render: Callable[[Transaction], str]) -> Get:
    def labelled(tx: Transaction) -> str:
        text = tx.client.label = render(tx)
        return text

    return Inline("tx.client.label or labelled(tx)", labelled=labelled)


def _once_for_a_server(render: Callable[[Transaction], str], core: Core) -> Get:
    known: dict[Server | None, str] = {}
    core.on_tick.append(known.clear)  # counts are a tenth of a second old at most

    def written(tx: Transaction) -> str:
        text = str(render(tx))  # a number alone is one still
        if tx.server is not None:
            known[tx.server] = text
        return text

    return Inline("known.get(tx.server) or written(tx)", known=known, written=written)
