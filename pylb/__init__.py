"""pylb: a multiprocess load balancer in Python whose workers follow the idle cores."""

__version__ = "0.1.0"
