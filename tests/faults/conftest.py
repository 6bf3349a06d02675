"""The real Slurm of tests/slurm, and the helpers that the rows of the faults table stand on."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
for folder in ("slurm", "orchestrate"):
    sys.path.insert(0, str(TESTS / folder))
