"""One thing fails: what do the others notice? Each scenario runs with pylb and beside HAProxy or nginx."""
