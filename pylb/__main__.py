"""``python -m pylb``."""

from pylb.cli import main

if __name__ == "__main__":
    main()
