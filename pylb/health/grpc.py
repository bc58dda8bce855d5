"""A check by gRPC's health protocol, ``grpc.health.v1.Health/Check`` over HTTP/2. Pure.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md and PROTOCOL-HTTP2.md there. The two
messages have one field each, so that they are written and read here without a library.
"""

from __future__ import annotations

from pylb.health.expect import Expected, Request
from pylb.health.http2 import Http2

_STATES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_CODES = {5: "it doesn't know the service", 12: "it has no health service", 16: "it asks for credentials"}


class Grpc(Http2):
    """Asks for the state of one service, or of the server as a whole where its name is empty."""

    def __init__(self, service: str, host: str, scheme: str = "http") -> None:
        name = service.encode()
        message = b"\x0a" + _varint(len(name)) + name if name else b""  # field 1: string service
        fields = (("content-type", "application/grpc"), ("te", "trailers"))
        request = Request("POST", "/grpc.health.v1.Health/Check", host, fields)
        super().__init__(request, Expected(), scheme, b"\0" + len(message).to_bytes(4, "big") + message)
        self._service = service

    def head(self) -> None:
        if self.status != 200:
            self.failed(f"it answers {self.status} to gRPC")

    def complete(self) -> None:
        if not self.status:
            raise ValueError("no status")
        code = int(self.fields.get("grpc-status", "2"))
        if code:
            known = _CODES.get(code, "it answers with an error")
            self.failed(f"{known} (gRPC status {code})")
            return
        state = _state(self.body)
        words = f"its state is {_STATES.get(state, str(state))}"
        if self._service:
            words = f"{self._service}: {words}"
        if state == 1:
            self.passed(words)
        else:
            self.failed(words)

    def ended(self) -> None:
        self.failed(self.ended_early)


def _varint(number: int) -> bytes:
    """As protobuf writes a number: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _state(body: bytes) -> int:
    """Field 1 of the message in the body, which is 0 where it isn't sent; raises ValueError."""
    size = int.from_bytes(body[1:5], "big")
    message = body[5 : 5 + size]
    if len(body) < 5 or body[0] or len(message) < size:
        raise ValueError("no whole message, or a compressed one")
    if message[:1] == b"\x08" and len(message) > 1 and message[1] < 128:  # field 1, a number
        return message[1]
    return 0
