"""A subnet for tests of streamed answers: it asks for numbers and wants them doubled, one a chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from serving.subnets.base import Subnet, Task
from serving.types import Body, SlotName
from tests.serving.tiny import SLOT, Double, Tiny


class Words(Double):
    """``{"x": [1.0, 2.0]}`` in; ``2.0\\n`` and ``4.0\\n`` out; a chunk of one number each."""

    synapse = "Words"

    def check(self, task: Task, answer: Any) -> str | None:
        return None if all(map(math.isfinite, answer)) else "not finite"

    def reply(self, task: Task, answer: Any, *, legacy: bool) -> Body:
        return "".join(f"{value}\n" for value in answer).encode()

    def whole(self, task: Task, chunks: int) -> str | None:
        return None if chunks == len(task.request) else f"{chunks} of {len(task.request)} numbers"


class Long(Words):
    """The same, a hundred thousand times the text of each number: more than any buffer on the way holds."""

    synapse = "Long"

    def reply(self, task: Task, answer: Any, *, legacy: bool) -> Body:
        return bytes(super().reply(task, answer, legacy=legacy)) * 100_000


class Wordy(Tiny):
    """Both, and the tiny subnet's own routes."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = (*self.routes, Words(), Long())
        self.slots: Sequence[SlotName] = (SLOT,)


def words() -> Subnet:
    """The factory that a worker process calls."""
    return Wordy()
