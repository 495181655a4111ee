"""Leaves the heavy clients out of a run in .venv, which does not have them: `make test-compat` drives them."""

from __future__ import annotations

import os

collect_ignore = [] if "SERVER_PYTHON" in os.environ else ["heavy"]
