"""How a flow runs its steps: one after the other as plain calls, or as Prefect tasks. The flow does not know which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Steps(Protocol):
    """Runs a named step and gives its result; an error goes through, so a flow fails when a step fails."""

    def __call__(self, name: str, work: Callable[[], T], *, retries: int = 0) -> T:
        """Run `work`. `retries` counts further tries, for steps that may be repeated safely."""
        ...


def in_turn(name: str, work: Callable[[], T], *, retries: int = 0) -> T:
    """Run the step here and now, once: whoever called can call again."""
    return work()
