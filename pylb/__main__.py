"""``python -m pylb``, and the command ``pylb``."""

import os
import signal
import sys


def main() -> None:
    """Begin with signals, as the imports take a while; then the command line."""
    from pylb.supervisor.signals import survive

    survive(serving=sys.argv[1:2] in (["serve"], ["demo"]))
    if os.getpid() == 1:
        # In a container, where signals without a handler pass PID 1 by: a stop that comes before the
        # supervisor has its own handlers, while the imports run, would be waited for in vain.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    from controller.stderr import fill

    fill()  # before anything else is opened

    from pylb.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
