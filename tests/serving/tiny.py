"""A tiny subnet for tests of the road: it asks for numbers and wants them doubled."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from serving.errors import UNAVAILABLE, Refusal
from serving.state import PriceBook
from serving.subnets.base import NO_PIN, Inputs, Route, Subnet, Task, Tensors
from serving.types import Body, NetUid, Seconds, SlotName, UnixSeconds

SLOT, OTHER = SlotName("tiny"), SlotName("other")


class Double:
    """``{"x": [1.0, 2.0]}`` in, ``{"y": [2.0, 4.0]}`` out; ``x`` is under the legacy body hash."""

    synapse = "Double"
    hash_fields: Sequence[str] = ("x",)
    model_order: Sequence[str] = ("x",)
    monotonic_nonces = False
    pin_s = NO_PIN
    retry_status = UNAVAILABLE
    max_body = 64 * 1024
    max_timeout = Seconds(20.0)

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        return [self._numbers(body)]

    def parse(self, body: dict[str, Any], now: UnixSeconds) -> Task:
        numbers = self._numbers(body)
        return Task(SLOT, numbers, json.dumps(numbers).encode())

    def restore(self, recorded: bytes, now: UnixSeconds) -> Task:
        return self.parse({"x": json.loads(recorded)}, now)

    def inputs(self, task: Task, seed: int, prices: PriceBook | None, now: UnixSeconds) -> Inputs:
        tensors: dict[str, npt.NDArray[Any]] = {
            "X": np.array([task.request], np.float32),
            "SEED": np.array([[seed]], np.uint64),
        }
        return Inputs(tensors, {"subnet_at": now})

    def answer(self, task: Task, outputs: Tensors) -> Any:
        return [float(value) for value in outputs["Y"][0]]

    def check(self, task: Task, answer: Any) -> str | None:
        if not all(map(math.isfinite, answer)):
            return "not finite"
        return None if len(answer) == len(task.request) else "wrong length"

    def reply(self, task: Task, answer: Any, *, legacy: bool) -> Body:
        return msgspec.json.encode({"x": task.request, "y": answer} if legacy else {"y": answer})

    def _numbers(self, body: dict[str, Any]) -> list[float]:
        x = body.get("x")
        if not isinstance(x, list) or not all(type(value) in (int, float) for value in x):
            raise Refusal(400, "bad_input", "x is not a list of numbers")
        return [float(value) for value in x]


class Plain(Double):
    """The same, with nothing under the body hash and short bodies."""

    synapse = "Plain"
    hash_fields: Sequence[str] = ()
    model_order: Sequence[str] = ()
    max_body = 1024

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        return []


class Tiny:
    """Both routes, one slot."""

    def __init__(self) -> None:
        self.name = "tiny"
        self.netuid = NetUid(1)
        self.slots: Sequence[SlotName] = (SLOT,)
        self.routes: Sequence[Route] = (Double(), Plain())


def tiny() -> Subnet:
    """The factory that a worker process calls."""
    return Tiny()


class Patient(Double):
    """For callers that a test keeps waiting, on whatever machine."""

    max_timeout = Seconds(50.0)


class Other(Patient):
    """The same of another slot."""

    synapse = "Other"

    def parse(self, body: dict[str, Any], now: UnixSeconds) -> Task:
        return super().parse(body, now)._replace(slot=OTHER)


class Two(Tiny):
    """A subnet of two slots."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = (SLOT, OTHER)
        self.routes = (Patient(), Other())


def patient() -> Subnet:
    """The factory that a worker process calls."""
    made = Tiny()
    made.routes = (Patient(), Plain())
    return made


def two() -> Subnet:
    """The factory that a worker process calls."""
    return Two()
