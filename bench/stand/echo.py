"""A subnet for benchmarks: ``POST /Echo`` gives the numbers back, and has them under the legacy body hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from serving.errors import UNAVAILABLE, Refusal
from serving.state import PriceBook
from serving.subnets.base import NO_PIN, Inputs, Route, Subnet, Task, Tensors
from serving.types import NetUid, Seconds, SlotName, UnixSeconds

SLOT = SlotName("echo")


class Echo:
    """``{"x": [1.0, ...]}`` in, ``{"y": [1.0, ...]}`` out."""

    synapse = "Echo"
    hash_fields: Sequence[str] = ("x",)
    model_order: Sequence[str] = ("x",)
    monotonic_nonces = False
    pin_s = NO_PIN
    retry_status = UNAVAILABLE
    max_body = 65_536
    max_timeout = Seconds(12.0)

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        """The numbers as floats."""
        return [_numbers(body)]

    def parse(self, body: dict[str, Any], now: UnixSeconds) -> Task:
        """At most a thousand finite numbers."""
        numbers = _numbers(body)
        return Task(SLOT, numbers, orjson.dumps(numbers))

    def inputs(self, task: Task, seed: int, prices: PriceBook | None, now: UnixSeconds) -> Inputs:
        """``X`` float64 (1, n)."""
        return Inputs({"X": np.array([task.request], np.float64)}, {})

    def answer(self, task: Task, outputs: Tensors) -> Any:
        """``Y`` as the model gave it."""
        return outputs["Y"][0]

    def check(self, task: Task, answer: Any) -> str | None:
        """The same numbers, or the gateway mixed two requests up."""
        return None if answer.tolist() == task.request else "these are not the numbers that were sent"

    def restore(self, recorded: bytes, now: UnixSeconds) -> Task:
        """The task behind its recorded spelling."""
        return Task(SLOT, orjson.loads(recorded), recorded)

    def reply(self, task: Task, answer: Any, *, legacy: bool) -> bytes:
        """The output, with the input before it for a legacy caller."""
        fields = {"x": task.request, "y": answer} if legacy else {"y": answer}
        return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)


def _numbers(body: dict[str, Any]) -> list[float]:
    x = body.get("x")
    if not isinstance(x, list) or len(x) > 1000 or not set(map(type, x)) <= {int, float}:
        raise Refusal(400, "bad_input", "x is not a list of at most 1000 numbers")
    try:
        return list(map(float, x))
    except OverflowError:
        raise Refusal(400, "bad_input", "x holds a number that is too large") from None


class EchoSubnet:
    """One route, one slot."""

    def __init__(self) -> None:
        self.name = "echo"
        self.netuid = NetUid(1)
        self.slots: Sequence[SlotName] = (SLOT,)
        self.routes: Sequence[Route] = (Echo(),)


def echo() -> Subnet:
    """The factory that a worker process calls."""
    return EchoSubnet()
