"""h2 as both sides use it (sans I/O)."""

from __future__ import annotations

import h2.connection
import h2.errors
import h2.events
from hyperframe.frame import Frame, GoAwayFrame


class H2Connection(h2.connection.H2Connection):
    """h2's connection, with two differences.

    Frames that h2 passes over without an event are counted: resets, window updates and data of streams that
    are over cost about as much as others, and a peer may not send any number of them.

    And the streams that are under way outlive the peer's GOAWAY. For h2 a connection is over with a GOAWAY,
    in either direction. But whoever sends one (nginx after so many requests, gRPC after so much time, clients
    that leave) opens no more streams and waits for the others (RFC 9113 §6.8). Here it is an event and no
    more. Ours is written by hand for the same reason.
    """

    silent = 0
    """Frames without an event, until somebody takes note and sets it back."""

    def _receive_frame(self, frame: Frame) -> list[h2.events.Event]:
        events = super()._receive_frame(frame)
        if not events:
            self.silent += 1
        return events

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        return [], [event]
