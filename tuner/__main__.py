"""``python -m tuner``: the same as the ``tuner`` script."""

import sys

from tuner.cli import main

if __name__ == "__main__":
    sys.exit(main())
