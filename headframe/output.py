"""How every verb speaks: JSON for programs on stdout, tables for people, progress on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

from rich.console import Console

_PIPED_WIDTH = 140
"""Columns of a table that goes to a file or a pipe: enough for ids to stay whole."""


def _console(stream: TextIO, *, stderr: bool) -> Console:
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else _PIPED_WIDTH)


console = _console(sys.stdout, stderr=False)
progress_console = _console(sys.stderr, stderr=True)

EXIT_BAD = 1
EXIT_USAGE = 2
EXIT_HELD = 3
"""Inconclusive, or held."""


def print_json(value: Any) -> None:
    """One JSON document on stdout, keys as given."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
