"""Client sides: what a connection of a client speaks, in the vocabulary of `pylb.worker.sides`.

Floor: above the exchange, which they make; below the listeners, which make them. They never import the
server side.
"""
