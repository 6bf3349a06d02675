"""``python tests/faults``: the faults table, or with ``--must-show`` the run that issue and docs speak of."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def main() -> int:
    sys.path[:0] = [str(TESTS / name) for name in ("faults", "slurm", "orchestrate", "..")]
    if "--must-show" in sys.argv:
        import must_show

        return must_show.main()
    import table

    return table.main()


if __name__ == "__main__":
    sys.exit(main())
