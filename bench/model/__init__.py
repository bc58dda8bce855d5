"""More cores than this machine has: a discrete-event model, with pylb's own policy and lease table in it."""
