"""Stickiness: a client keeps to its server by a cookie that names it, with no table anywhere.

Pure: heads and times are passed in. Floor: above `pylb.http`, beside the rules. Knows no connection and no
state of a server; whether the one that a cookie names may be used is decided above.
"""
