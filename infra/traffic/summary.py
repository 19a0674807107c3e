"""The traffic record in one look that stays quick however large it is."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from infra.traffic.reconcile import Books, counted, last_books, page
from serving.errors import UserError
from serving.traffic.metrics import read_shipping
from serving.traffic.retention import MARK, Mark
from serving.traffic.segments import SUFFIX, count, is_live

COUNTED_BYTES = 64_000_000
"""So much of what was not shipped is counted, newest segments first; a mark tells the rows of each shipped one."""
_ANSWER_S = 2.0


class Summary(msgspec.Struct):
    """What `headframe status` tells of the record."""

    records: int = 0
    """Rows, other releases' tries included: shipped in the last 30 days, or on this disk."""
    uncounted_bytes: int = 0
    """Of segments that hold further rows and were not looked into."""
    newest: float | None = None
    """When the last row came, wall time, unix s."""
    shipped: int = 0
    """Those of `records` that the object store has."""
    waiting: int = 0
    """Closed segments that it does not have yet."""
    shipping_error: str | None = None
    """What the last shipping run stopped at."""
    lost: int | None = None
    """Rows that the disk refused since the gateway started; None when it does not run."""
    balanced: bool | None = None
    """Whether the last `reconcile` found the books to agree; None before the first."""
    books: Books | None = None
    """What it found."""


def summary(folder: Path, metrics: str | None, *, counted_bytes: int = COUNTED_BYTES) -> Summary:
    """Of the record in a folder; `metrics` is the address of the running gateway's, None when it does not run."""
    marks, sizes, newest = _look(folder)
    found = Summary(shipping_error=read_shipping(folder).error, lost=_lost(metrics), books=last_books(folder))
    found.shipped = found.records = sum(mark.rows for mark in marks.values())
    found.newest = max([newest, *(mark.last for mark in marks.values() if mark.rows)], default=0.0) or None
    for name, size in sorted(sizes.items(), reverse=True):
        path = folder / f"{name}{SUFFIX}"
        if name in marks:
            continue
        try:
            found.waiting += not is_live(path)
            if size <= counted_bytes:
                found.records += count(path)
            else:
                found.uncounted_bytes += size
        except OSError:  # removed meanwhile
            continue
        counted_bytes -= min(size, counted_bytes)
    if found.books is not None:
        found.balanced = not (found.books.missing or found.books.uncounted)
    return found


def _look(folder: Path) -> tuple[dict[str, Mark], dict[str, int], float]:
    """Marks and sizes by segment, and when the last of them was written to, unix s."""
    marks: dict[str, Mark] = {}
    sizes: dict[str, int] = {}
    newest = 0.0
    decoder = msgspec.json.Decoder(Mark)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name, suffix = os.path.splitext(entry.name)
                if name.startswith("."):
                    continue
                try:
                    if suffix == MARK:
                        marks[name] = decoder.decode(Path(entry.path).read_bytes())
                    elif suffix == SUFFIX:
                        stat = entry.stat()
                        sizes[name], newest = stat.st_size, max(newest, stat.st_mtime)
                except (OSError, msgspec.DecodeError):  # removed meanwhile, or a mark that is written anew
                    continue
    except FileNotFoundError:  # never up
        pass
    return marks, sizes, newest


def _lost(metrics: str | None) -> int | None:
    try:
        return None if metrics is None else counted(page(metrics, _ANSWER_S)).lost
    except UserError:
        return None
