"""Server sides: what a connection to a server speaks, in the vocabulary of `pylb.worker.sides`.

Floor: below the phases and the exchange; above backends. They never import the client side.
"""
