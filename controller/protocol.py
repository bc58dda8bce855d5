"""The protocol between load balancers and the controller, without I/O.

JSON lines (UTF-8, one object per line, at most `MAX_LINE` bytes), each with ``"v": 1`` and a ``type``. Both
ends use `encode` and `LineDecoder`. `docs/controller-protocol.md` lists every message, field and unit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

VERSION = 1
MAX_LINE = 65536
"""Bytes of one line, newline included."""
MAX_STATUS = 16 * 1024 * 1024
"""Bytes of a `Status`, which has a lease for each balancer."""
MAX_CORES = 1_000_000
"""Anything above is nonsense and refused."""


class ProtocolError(Exception):
    """A message that can't be taken; ``code`` is for programs. ``fatal`` when the stream is lost."""

    def __init__(self, code: str, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fatal = fatal


@dataclass(frozen=True, slots=True)
class Hello:
    """Balancer: who I am. ``min``/``max`` workers, ``weight`` in the sharing, ``token`` if asked for.

    ``session`` is a new one with every hello: a grant for another session is not for this balancer.
    """

    type: ClassVar[str] = "hello"
    name: str
    min: int
    max: int
    weight: float = 1.0
    token: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Balancer: how I am. Sent on change and at least every second.

    ``busy`` is the CPU used by workers and control plane together, in cores. ``pressure`` is how many cores
    it could use now (at least what its workers use). ``p99_ms`` is the 99th percentile of response times.
    ``seq`` counts the reports of a session, from 1.
    """

    type: ClassVar[str] = "report"
    workers: int
    busy: float = 0.0
    pressure: float = 0.0
    in_flight: int = 0
    accept_queue: int = 0
    p99_ms: float = 0.0
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """Controller: what you may use.

    ``cores`` is the lease: how many workers may run. ``idle_cores`` is how many cores more are idle now.
    ``session`` and ``seq`` are those of the last report that came (0: of the hello). The lease ends ``lease``
    seconds after *that was sent*, unless it is renewed: so a grant that lay somewhere says how old it is.
    ``used`` and ``waited`` are the cores that the balancer's whole machine uses, and that it waits for, as
    its host sees it; both are 0 where the source knows no machines.
    """

    type: ClassVar[str] = "grant"
    idle_cores: int
    cores: int
    lease: float
    reason: str = ""
    session: str = ""
    seq: int = 0
    used: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Error:
    """Controller: your message was not taken."""

    type: ClassVar[str] = "error"
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Anybody who may connect: show me all."""

    type: ClassVar[str] = "status"
    token: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """Controller: source, cores and leases. Each lease has name, workers, busy, pressure, cores.

    ``preferred`` has the machines for which the host acts now, ``actions`` what it did lately.
    """

    type: ClassVar[str] = "status_answer"
    source: str
    usable_cores: float
    idle_cores: float
    leases: list[dict[str, Any]] = field(default_factory=list)
    per_cpu_idle: list[float] = field(default_factory=list)
    preferred: list[dict[str, Any]] = field(default_factory=list)
    actions: list[dict[str, Any]] = field(default_factory=list)


Message = Hello | Report | Grant | Error | StatusRequest | Status
_TYPES: dict[str, type[Message]] = {
    kind.type: kind for kind in (Hello, Report, Grant, Error, StatusRequest, Status)
}


def encode(message: Message) -> bytes:
    """One message as a line."""
    body = {"v": VERSION, "type": message.type, **asdict(message)}
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def _integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high  # NaN is neither


def _text(length: int) -> Callable[[Any], bool]:
    # Shown on terminals: no escape sequences, nor half of a surrogate pair.
    return lambda value: type(value) is str and len(value) <= length and value.isprintable()


# What each field may hold; the same name means the same thing in every message.
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("1 to 128 printable characters", lambda value: _text(128)(value) and bool(value)),
    "min": ("an integer from 1 to 100000", _integer(1, 100_000)),
    "max": ("an integer from 1 to 100000", _integer(1, 100_000)),
    "weight": ("a number above 0, at most 1000", lambda value: _number(0, 1000)(value) and value > 0),
    "token": ("at most 4096 printable characters", _text(4096)),
    "session": ("at most 64 printable characters", _text(64)),
    "seq": ("an integer from 0", _integer(0, 2**53)),
    "used": ("a number of cores from 0", _number(0, MAX_CORES)),
    "waited": ("a number of cores from 0", _number(0, MAX_CORES)),
    "workers": ("an integer from 0 to 100000", _integer(0, 100_000)),
    "busy": ("a number of cores from 0", _number(0, MAX_CORES)),
    "pressure": ("a number of cores from 0", _number(0, MAX_CORES)),
    "in_flight": ("an integer from 0", _integer(0, 2**53)),
    "accept_queue": ("an integer from 0", _integer(0, 2**53)),
    "p99_ms": ("milliseconds from 0", _number(0, 1e12)),
    "idle_cores": ("a number of cores from 0", _number(0, MAX_CORES)),
    "cores": ("an integer from 0", _integer(0, MAX_CORES)),
    "lease": ("seconds above 0, at most a day", lambda value: _number(0, 86400)(value) and value > 0),
    "reason": ("at most 1000 printable characters", _text(1000)),
    "code": ("at most 100 printable characters", _text(100)),
    "message": ("at most 1000 printable characters", _text(1000)),
    "source": ("at most 1000 printable characters", _text(1000)),
    "usable_cores": ("a number of cores from 0", _number(0, MAX_CORES)),
    "leases": ("a list", lambda value: isinstance(value, list)),
    "per_cpu_idle": ("a list", lambda value: isinstance(value, list)),
    "preferred": ("a list", lambda value: isinstance(value, list)),
    "actions": ("a list", lambda value: isinstance(value, list)),
}


def decode(line: bytes) -> Message:
    """Read one line.

    Unknown fields are passed over, so that a newer peer of the same version can say more.

    Raises:
        ProtocolError: the line is not a message of this version.
    """
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError("json", "the line is not JSON") from None
    if not isinstance(body, dict):
        raise ProtocolError("json", "the line is not a JSON object")
    if type(body.get("v")) is not int or body["v"] != VERSION:
        raise ProtocolError("version", f"this side speaks version {VERSION}")
    kind_name = body.get("type")
    kind = _TYPES.get(kind_name) if isinstance(kind_name, str) else None
    if kind is None:
        raise ProtocolError("type", f"unknown type; known: {', '.join(_TYPES)}")
    values = {}
    for known in fields(kind):
        if known.name in body:
            expected, rule = _RULES[known.name]
            if not rule(body[known.name]):
                raise ProtocolError("field", f"{kind.type}.{known.name}: expected {expected}")
            values[known.name] = body[known.name]
    try:
        message = kind(**values)
    except TypeError:
        missing = [known.name for known in fields(kind) if known.name not in values]
        raise ProtocolError("field", f"{kind.type}: missing one of {', '.join(missing)}") from None
    if isinstance(message, Hello) and message.min > message.max:
        raise ProtocolError("field", "hello.min is greater than hello.max")
    if isinstance(message, Grant) and not isinstance(message.idle_cores, int):
        raise ProtocolError("field", "grant.idle_cores: expected an integer")
    return message


class LineDecoder:
    """Cuts a stream into lines and reads them; never holds more than one line of ``longest`` bytes."""

    def __init__(self, longest: int = MAX_LINE) -> None:
        self._longest = longest
        self._buffer = b""
        self._lost = False

    def feed(self, data: bytes) -> list[Message | ProtocolError]:
        """Messages and mistakes in the order in which they came.

        After a line that is too long the stream is lost: the last item then is a *fatal* error,
        and whatever comes later is passed over.
        """
        if self._lost:
            return []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        found: list[Message | ProtocolError] = []
        for line in lines:
            if len(line) >= self._longest:
                return self._lose(found)
            if not line.strip():
                continue
            try:
                found.append(decode(line))
            except ProtocolError as error:
                found.append(error)
        if len(self._buffer) >= self._longest:
            return self._lose(found)
        return found

    def _lose(self, found: list[Message | ProtocolError]) -> list[Message | ProtocolError]:
        self._lost = True
        self._buffer = b""
        found.append(ProtocolError("line", f"a line is longer than {self._longest} bytes", fatal=True))
        return found
