"""It's AI on the road of a request: ``POST /TextSynapse``, its tensors, its answer, and its validity rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from serving.errors import Refusal
from serving.state import PriceBook
from serving.subnets import fields
from serving.subnets.base import Body, Inputs, Route, Subnet, Task, Tensors
from serving.subnets.itsai.request import FIELDS, Request, parse
from serving.subnets.itsai.rules import MAX_BODY, MAX_TIMEOUT, NETUID, RETRY_STATUS, ROUND_S, SLOT
from serving.subnets.itsai.validity import FloatArray, coarse, fault
from serving.types import NetUid, Seconds, SlotName, UnixSeconds


@dataclass
class Detection:
    """The subnet's one synapse. Its legacy body hash covers nothing, so its texts are unauthenticated."""

    synapse: str = "TextSynapse"
    hash_fields: Sequence[str] = ()
    model_order: Sequence[str] = ()
    monotonic_nonces: bool = False
    max_body: int = MAX_BODY
    max_timeout: Seconds = MAX_TIMEOUT
    pin_s: Seconds = ROUND_S
    retry_status: int = RETRY_STATUS

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        """No field is hashed."""
        return []

    def parse(self, body: dict[str, Any], now: UnixSeconds) -> Task:
        """The task in a decoded JSON body; a version probe, or texts without a word, need no model."""
        request = parse(body)
        try:
            canonical = msgspec.json.encode(request)
        except UnicodeEncodeError:
            raise Refusal(400, "bad_text", "the body holds text that is not Unicode") from None
        drift = ("unknown_field",) if fields.unknown(body, FIELDS) else ()
        return Task(SLOT, request, canonical, needs_model=request.answerable, drift=drift)

    def restore(self, recorded: bytes, now: UnixSeconds) -> Task:
        """The task in recorded inputs."""
        return self.parse(msgspec.json.decode(recorded), now)

    def inputs(self, task: Task, seed: int, prices: PriceBook | None, now: UnixSeconds) -> Inputs:
        """TEXTS (1, n) in UTF-8, WORDS (1, n) int32, how many each has to the validator, and SEED (1, 1)."""
        request: Request = task.request
        texts = np.empty((1, len(request.texts)), dtype=np.object_)
        texts[0] = [text.encode() for text in request.texts]
        tensors: dict[str, npt.NDArray[Any]] = {
            "TEXTS": texts,
            "WORDS": request.words[np.newaxis],
            "SEED": np.array([[seed]], dtype=np.uint64),
        }
        recorded = {"texts": len(request.texts), "words": int(request.words.sum()), "drift": list(task.drift)}
        return Inputs(tensors, recorded)

    def answer(self, task: Task, outputs: Tensors) -> FloatArray:
        """From PROBABILITIES (1, words), all texts in a row: the same on the validator's grid of two decimals."""
        found = outputs.get("PROBABILITIES", np.empty((1, 0)))
        if found.dtype.kind != "f" or found.ndim != 2 or found.shape[0] != 1:
            return np.empty((0, 0))
        return coarse(found[0])

    def check(self, task: Task, answer: Any) -> str | None:
        """A finite probability for every word, and for none of a version probe's: None when valid, else the reason."""
        request: Request = task.request
        return fault(int(request.words.sum()) if request.answerable else 0, answer)

    def reply(self, task: Task, answer: Any, *, legacy: bool) -> Body:
        """``{"predictions": [[0.13, ...], ...]}``, a list for each text; with the inputs for a legacy caller."""
        request: Request = task.request
        texts = np.split(answer, np.cumsum(request.words)[:-1]) if request.answerable else []
        output: dict[str, Any] = {"predictions": [text.tolist() for text in texts]}
        if legacy:
            output = {"texts": request.texts, "version": request.version, **output}
        return orjson.dumps(output)


@dataclass
class ItsAI:
    """Subnet 32."""

    routes: Sequence[Route]
    name: str = "itsai"
    netuid: NetUid = NETUID
    slots: Sequence[SlotName] = (SLOT,)


def itsai() -> Subnet:
    """It's AI, which has no options."""
    return ItsAI(routes=(Detection(),))
