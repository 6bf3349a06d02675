"""``python -m clusters.child PARENT COMMAND...``: becomes COMMAND, which ends with the process PARENT.

The kernel sends SIGTERM when the parent dies, however it dies, and keeps doing so across exec. (The starting process
cannot arrange this itself: what runs between fork and exec is not safe in a process with threads.)
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent, *command = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent):  # it died before it could be watched
        sys.exit(f"process {parent} is gone: nothing is started for it")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
