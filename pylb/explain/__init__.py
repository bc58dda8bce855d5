"""What a configuration does with a request, without serving one: ``explain``, ``[[test]]``, and ``check``.

A request goes through the phases that a worker would run for it, so what is told here is what happens there.

Floor: above the worker, whose frontends it makes; below the command line. The supervisor doesn't know it.
"""
