LINES = [
    *(b"Host: a", b"host: b", b"Connection: close", b"Connection: keep-alive, x-gone", b"X-Gone: 1", b"A: b"),
    *(b"Content-Length: 2", b"content-length:3", b"Transfer-Encoding: chunked", b"A: c", b"A : c", b" d: e"),
    *(b"Expect: 100-continue", b"Upgrade: websocket", b"connection: upgrade", b"TE: trailers", b"a\rb: c"),
    *(b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-Host: c", b"X-Request-ID: 7", b"Forwarded: for=x"),
    b"A: \x00",
]
