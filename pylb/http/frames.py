"""h2 as both sides use it (sans I/O)."""

from __future__ import annotations

import h2.connection
import h2.errors
import h2.events
from hyperframe.frame import Frame, GoAwayFrame


class H2Connection(h2.connection.H2Connection):
    """h2's connection, in which the streams that are under way outlive the peer's GOAWAY.

    For h2 a connection is over with a GOAWAY, in either direction. But whoever sends one (nginx after so many
    requests, gRPC after so much time, clients that leave) opens no more streams and waits for the others
    (RFC 9113 §6.8). Here it is an event and nothing else. Ours is written by hand for the same reason.
    """

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        return [], [event]
