"""``python -m pylb``, and the command ``pylb``."""

import os
import signal
import sys


def main() -> None:
    """Set up signals first, as the imports take a while; then run the command line."""
    from pylb.supervisor.signals import survive

    survive(serving=sys.argv[1:2] in (["serve"], ["demo"]))
    if os.getpid() == 1:
        # The kernel drops signals to PID 1 of a container that has no handler for them (man 7
        # pid_namespaces): a stop that comes during the imports, before the supervisor has its own handlers,
        # would be lost.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    from controller.stderr import fill

    fill()  # before anything else is opened

    import pylb.clirunning  # noqa: F401  # adds its commands
    from pylb.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
