"""``python -m orchestrate`` is ``parapet``."""

import gc
import sys

from orchestrate.cli import main


def program() -> int:
    """The command, in a process of its own; returns the exit code."""
    code = main()
    gc.freeze()  # or Python looks for garbage among all that was imported once more before it exits
    return code


if __name__ == "__main__":
    sys.exit(program())
