"""Who is asked for servers while pylb runs: a module for each kind of source.

Within `pylb.control`, below `discovery`, which asks them in turn and decides with `pylb.discover`. A source
asks and reads; it doesn't know what becomes of its answer. What it may use (paths, URLs, code, CAs) comes
from the configuration file.
"""
