"""A process that dies between two calls: for loops that let it die before every single one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FILE_CALLS = frozenset({"open", "os.rename", "os.remove", "os.utime", "os.truncate", "os.mkdir"})
_left: list[int] = []


class Killed(BaseException):
    """Nothing of the process runs after this."""


class Fate:
    """Whether it died."""

    died = False


def step() -> None:
    """One call that death may come before; file calls take it by themselves."""
    if _left:
        _left[0] -= 1
        if _left[0] < 0:
            raise Killed


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in FILE_CALLS:
        step()


sys.addaudithook(_hook)


@contextmanager
def dies_after(calls: int) -> Iterator[Fate]:
    """The block dies before its file call number `calls` (and every later one), if it makes so many."""
    fate = Fate()
    _left[:] = [calls]
    try:
        yield fate
    except Killed:
        fate.died = True
    finally:
        _left.clear()
