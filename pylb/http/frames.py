"""The h2 library as both sides use it: its settings, and what pylb does otherwise (pure)."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from h2.settings import SettingCodes
from hyperframe.frame import Frame, GoAwayFrame


class H2Connection(h2.connection.H2Connection):
    """h2's connection, with two differences.

    Frames that h2 passes over without an event are counted: resets, window updates and data of streams that
    are over cost about as much as others, and a peer may not send any number of them.

    And the streams that are under way outlive the peer's GOAWAY. For h2 a connection is over with a GOAWAY,
    in either direction. But a peer that sends one (nginx after so many requests, gRPC after so much time,
    clients that leave) opens no more streams and waits for the others (RFC 9113 §6.8). Here it is an event
    and no more. pylb's own GOAWAY is written as a frame, and not by h2, for the same reason.
    """

    silent = 0
    """Frames without an event since the connection has last set this back."""

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


def _connection(client_side: bool, header_bytes: int, header_count: int, **settings: int) -> H2Connection:
    """A connection with these settings beside h2's own."""
    connection = H2Connection(h2.config.H2Configuration(client_side=client_side, header_encoding=False))
    connection.local_settings = h2.settings.Settings(
        client=client_side, initial_values={SettingCodes[name]: value for name, value in settings.items()}
    )
    # Holds from the first byte, acknowledged or not; room for HPACK's 32 bytes of overhead per field.
    connection.decoder.max_header_list_size = header_bytes + 32 * header_count
    return connection


def towards_client(header_bytes: int, header_count: int, streams: int, window: int) -> H2Connection:
    """A connection to a client, who may open so many streams and send so many bytes ahead on each."""
    return _connection(
        *(False, header_bytes, header_count),
        MAX_CONCURRENT_STREAMS=streams,
        INITIAL_WINDOW_SIZE=window,
        MAX_HEADER_LIST_SIZE=header_bytes,
        ENABLE_CONNECT_PROTOCOL=1,
    )


def towards_server(header_bytes: int, header_count: int, window: int) -> H2Connection:
    """A connection to a server, which may send so many bytes ahead on each stream, and push nothing."""
    return _connection(True, header_bytes, header_count, ENABLE_PUSH=0, INITIAL_WINDOW_SIZE=window)
