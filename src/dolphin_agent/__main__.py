"""`python -m dolphin_agent`."""

from __future__ import annotations

import sys

from dolphin_agent.cli import main

sys.exit(main())
