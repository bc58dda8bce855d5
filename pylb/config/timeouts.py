"""The section ``[timeouts]``."""

from __future__ import annotations

from pydantic import Field

from pylb.config.section import Section
from pylb.config.values import Seconds, SecondsOrZero


class Timeouts(Section):
    """How long pylb waits."""

    connect: Seconds = Field(default=5.0, description="For a server to accept a connection.")
    request: Seconds = Field(
        default=10.0, description="For a complete request head (408), and for a TLS handshake."
    )
    client: Seconds = Field(
        default=60.0, description="Inactivity while a request's body comes or a response is not taken."
    )
    keep_alive: Seconds = Field(
        default=60.0, description="For the next request on an idle client connection."
    )
    server: Seconds = Field(default=60.0, description="For a server to answer, or to go on answering (504).")
    server_idle: Seconds = Field(
        default=4.0,
        description="How long an unused server connection is kept, if the server doesn't say less "
        "(Keep-Alive: timeout): less than servers do, of which Node closes after 5 s.",
    )
    http2_ping: SecondsOrZero = Field(
        default=0,
        description="Silence on an HTTP/2 connection with open streams, to clients and servers, after which "
        "it is asked by a PING whether it lives: closed without an answer within `connect`; 0: never.",
    )
    tunnel: Seconds = Field(
        default=3600.0, description="Inactivity of an upgraded connection, or of one in TCP mode."
    )
