"""HTTP/1 rules without sockets: heads in and out, chunked framing, pylb's own responses."""
