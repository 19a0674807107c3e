"""The gateway's own price book, as the twin waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from serving.errors import UserError
from serving.state import PriceBook

Book = Callable[[float | None], PriceBook]
"""The gateway's price book once it has caught up with a subnet time (unix s), or as it is for None; may wait."""


def book_file(path: Path, *, limit_s: float = 60.0, poll_s: float = 0.1) -> Book:
    """Reads ``prices.json``; given a time, waits until its `as_of` is that time to a second.

    The book raises UserError when the file is missing or does not catch up within `limit_s` seconds.
    """

    def book(at: float | None) -> PriceBook:
        end = time.monotonic() + limit_s
        while True:
            found = _read(path)
            if found is not None and (at is None or abs(found.as_of - at) <= 1.0):
                return found
            if time.monotonic() > end:
                state = "cannot be read" if found is None else f"is as of {found.as_of:.0f}, not {at:.0f}"
                raise UserError(f"{path} {state} after {limit_s:.0f} s: is the sidecar up? Try 'headframe status'")
            time.sleep(poll_s)

    return book


def _read(path: Path) -> PriceBook | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PriceBook)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
