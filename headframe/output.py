"""How every verb speaks: JSON for programs on stdout, tables for people, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

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


def id_column(head: str) -> Column:
    """A column of release ids, which are meant to be copied: never cut."""
    return Column(head, no_wrap=True, min_width=23)


def utc(at: float) -> str:
    """A unix time as people read it."""
    return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")


@contextmanager
def bars() -> Iterator[Any]:
    """Bars on stderr, one for each thing that is counted."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=progress_console, transient=True) as shown:
        known: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = shown.add_task(what, total=total)
            shown.update(known[what], completed=done, total=total)

        yield tell
