"""Policies tried on simulated time: a discrete-event model with pylb's own policy and lease table in it."""
