"""The controller: knows which cores are idle and leases them to load balancers.

It is a program of its own (``python -m controller``) for the machine that knows the physical cores, and runs
embedded in pylb where none is configured. It imports nothing of ``pylb``; of it, pylb imports the balancer's
end (`client`, `embedded`), the sources, and `stderr`.
"""
