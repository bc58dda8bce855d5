"""HTTP without sockets (pure): heads, bodies and their framing, HTTP/2's heads in HTTP/1.1, WebSocket frames,
and pylb's own responses. Nothing here does I/O, reads a clock, or knows the worker.
"""
