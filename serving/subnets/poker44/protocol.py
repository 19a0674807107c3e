"""Poker44 on the road of a request: ``POST /MicroSessionDetectionSynapse``, tensors, answer, and validity rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from serving.errors import UNAVAILABLE, Refusal
from serving.state import PriceBook
from serving.subnets.base import NO_PIN, Body, Inputs, Route, Subnet, Task, Tensors
from serving.subnets.poker44.request import HASHED, Request, decisions_text, drift, parse, typed
from serving.subnets.poker44.rules import MAX_BODY, MAX_TIMEOUT, NETUID, SLOT
from serving.subnets.poker44.validity import fault
from serving.types import NetUid, Seconds, SlotName, UnixSeconds


@dataclass
class MicroSessions:
    """The subnet's one synapse. Its legacy body hash covers all inputs."""

    synapse: str = "MicroSessionDetectionSynapse"
    hash_fields: Sequence[str] = HASHED
    model_order: Sequence[str] = HASHED
    monotonic_nonces: bool = False
    max_body: int = MAX_BODY
    max_timeout: Seconds = MAX_TIMEOUT
    pin_s: Seconds = NO_PIN
    retry_status: int = UNAVAILABLE

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        """The five inputs; raises Refusal (400) when one is not of its type."""
        request = typed(body)
        return [getattr(request, name) for name in HASHED]

    def parse(self, body: dict[str, Any], now: UnixSeconds) -> Task:
        """The task in a decoded JSON body; raises Refusal (400) in one clear line."""
        request = parse(body)
        try:
            return Task(SLOT, request, request.spelt(), drift=drift(request, body))
        except UnicodeEncodeError:
            raise Refusal(400, "bad_text", "the body holds text that is not Unicode") from None

    def restore(self, recorded: bytes, now: UnixSeconds) -> Task:
        """The task in recorded inputs."""
        return self.parse(json.loads(recorded), now)

    def inputs(self, task: Task, seed: int, prices: PriceBook | None, now: UnixSeconds) -> Inputs:
        """DECISIONS (1, n): the four decisions of each item as JSON text, keys sorted; and SEED (1, 1).

        Ids, hashes and the order of windows say nothing about who played, so no model gets to see them.
        """
        request: Request = task.request
        decisions = np.empty((1, len(request.items)), dtype=np.object_)
        decisions[0] = [decisions_text(item) for item in request.items]
        tensors: dict[str, npt.NDArray[Any]] = {"DECISIONS": decisions, "SEED": np.array([[seed]], dtype=np.uint64)}
        return Inputs(tensors, {"items": len(request.items), "drift": list(task.drift)})

    def answer(self, task: Task, outputs: Tensors) -> list[float]:
        """From RISK (1, n): the probability that a bot played, for each item."""
        risk = outputs.get("RISK", np.empty((1, 0)))
        if risk.dtype.kind != "f" or risk.ndim != 2 or risk.shape[0] != 1:
            return []
        scores: list[float] = risk[0].tolist()
        return scores

    def check(self, task: Task, answer: Any) -> str | None:
        """A finite score in [0, 1] for each item: None when valid, else the reason."""
        request: Request = task.request
        return fault(len(request.items), answer)

    def reply(self, task: Task, answer: Any, *, legacy: bool) -> Body:
        """``{"risk_scores": [...], "predictions": [...]}``, with the inputs before them for a legacy caller."""
        output = msgspec.json.encode({"risk_scores": answer, "predictions": [score >= 0.5 for score in answer]})
        return task.canonical[:-1] + b"," + output[1:] if legacy else output


@dataclass
class Poker44:
    """Subnet 126."""

    routes: Sequence[Route]
    name: str = "poker44"
    netuid: NetUid = NETUID
    slots: Sequence[SlotName] = (SLOT,)


def poker44() -> Subnet:
    """Poker44, which has no options."""
    return Poker44(routes=(MicroSessions(),))
