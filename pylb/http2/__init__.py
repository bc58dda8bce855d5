"""HTTP/2 as a protocol: frames, HPACK, streams, flow control and floods, for both sides (RFC 9113, RFC 7541).

Pure: bytes come in by `Connection.receive`, frames to be written gather in `Connection.out`, and the time is
asked of whoever inherits. The codecs of both sides (`pylb.worker.client.http2`, `pylb.worker.server.http2`)
inherit from `Connection` and `Stream`, which call their methods; there are no event objects in between.

Floor: above `pylb.http`, whose heads it reads and writes. Knows no socket, no exchange and no configuration.

What it does otherwise than the book:

* A header block may be looked up whole instead of being decoded (`decode`).
* What is sent has no dynamic table (`encode`): a block is then the same on every connection and at every
  moment, so it is made once, kept, and dropped where it isn't needed. HAProxy and nginx do the same.
* Priorities are read over (RFC 9113 §5.3.2); the field ``priority`` (RFC 9218) passes as any other.
"""
