"""Twenty and more kinds of faults, and how many of the clients' requests fail at pylb and at HAProxy."""
