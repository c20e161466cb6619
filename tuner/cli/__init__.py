"""The command line: each command parses, calls the client or the service, and prints.

Heavy packages load inside the commands that need them, so that ``tuner --help`` answers at once.
"""

from tuner.cli.main import main

__all__ = ["main"]
