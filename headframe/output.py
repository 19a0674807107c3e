"""How every verb speaks: JSON for programs on stdout, tables and progress for people on stderr or a terminal."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

console = Console(stderr=False, highlight=False)
progress_console = Console(stderr=True, highlight=False)

EXIT_BAD = 1
EXIT_USAGE = 2
EXIT_HELD = 3
"""Inconclusive, or held."""


def print_json(value: Any) -> None:
    """One JSON document on stdout, keys as given."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
