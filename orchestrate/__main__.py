"""``python -m orchestrate`` is ``parapet``."""

import sys

from orchestrate.cli import main

sys.exit(main())
