"""Why a request or a connection has ended: the one list of reasons, and errors in words for the log.

Floor: the bottom of the worker; knows nothing but the standard library.
"""

from __future__ import annotations

import socket
import ssl
from enum import Enum


class Reason(Enum):
    """Why an exchange ended without a server's whole response.

    The value is a name and the letter that HAProxy's termination state begins with
    (configuration manual, §8.5).
    """

    ANSWERED = "answered", "L"
    """pylb has answered by itself, as it was configured to."""
    REFUSED = "refused", "P"
    """The request is not passed on: malformed, too large, denied."""
    CLIENT_GONE = "client gone", "C"
    CLIENT_LATE = "client late", "c"
    """The client did not send, or did not take, what it should have in time."""
    NO_SERVER = "no server", "S"
    CONNECT_FAILED = "connect failed", "S"
    CONNECT_LATE = "connect late", "s"
    SERVER_STALE = "server stale", "S"
    """Nothing of a response has come on a connection that had served others: the server was closing it, most
    likely, and has done nothing with the request."""
    SERVER_UNSEEN = "server unseen", "S"
    """The server has surely not looked at the request (HTTP/2: it says so)."""
    SERVER_GONE = "server gone", "S"
    SERVER_LATE = "server late", "s"
    SERVER_DOWN = "server down", "D"
    """The server went down, and its connections were closed (``on_marked_down``)."""
    SERVER_BAD = "server bad", "P"
    """The server said something that must not be passed on."""
    NO_RESOURCES = "no resources", "R"
    """Descriptors or memory are used up."""
    TUNNEL_LATE = "tunnel late", "c"
    """Nothing has moved in a tunnel for too long."""
    CUT = "cut", "K"
    """The worker has to leave, and could not wait any longer."""
    INTERNAL = "internal", "I"
    """An error of pylb's own."""

    def __init__(self, text: str, letter: str) -> None:
        self.text = text
        self.letter = letter


def in_words(error: BaseException) -> str:
    """Why a connection failed, in one line without the address, which stands beside it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, socket.gaierror):
        return f"its name can't be resolved: {error.strerror or error}"
    if isinstance(error, TimeoutError) and not error.args:
        return "no connection in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return str(error) or type(error).__name__
