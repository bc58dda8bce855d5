"""``python -m pylb``."""

import os
import signal
import sys

if __name__ == "__main__":
    if os.getpid() == 1:
        # In a container, where signals without a handler pass PID 1 by: a stop that comes before the
        # supervisor has its own handlers, while the imports run, would be waited for in vain.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    from controller.stderr import fill

    fill()  # before anything else is opened

    from pylb.cli import main

    main()
