"""One `up` or `down` of a home at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import UserError


@contextmanager
def stack_lock(run: Path, *, wait_s: float = 180.0, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the home's lock; calls `waiting` once if another command has it. The kernel frees it at any death."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / "stack.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, path, wait_s, waiting)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, wait_s: float, waiting: Callable[[], None]) -> None:
    end = time.monotonic() + wait_s
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                waiting()
                told = True
            if time.monotonic() > end:
                raise UserError(
                    f"another 'headframe up' or 'down' has held {path} for {wait_s:.0f} s: let it finish, or end it"
                ) from None
            time.sleep(0.1)
        else:
            return
