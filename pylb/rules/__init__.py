"""Rules: which requests match what, and where they go. Pure: no socket, no clock, no event loop.

Floor: above `pylb.http`, below the configuration, whose sections `pylb.config.routing` makes rules of. What a
rule knows of a request is a `view.View`; a frontend's rules are a `decision.Rules`.
"""
