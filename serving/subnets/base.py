"""What a subnet is to the road of a request: routes, schemas, tensors, an answer, and the validity rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy.typing as npt

from serving.errors import Refusal
from serving.state import PriceBook
from serving.types import Body, NetUid, Seconds, SlotName, UnixSeconds

Tensors = Mapping[str, npt.NDArray[Any]]
"""Triton tensors by name, batch dimension (of 1) included."""
NO_PIN = Seconds(0.0)
"""For `Route.pin_s`: each answer stands alone."""


class Task(NamedTuple):
    """A validator's request, understood: everything that decides the answer, and nothing else."""

    slot: SlotName
    request: Any
    """The subnet's typed request; a legacy reply echoes it with equal values."""
    canonical: bytes
    """The request's inputs in one fixed spelling: what the seed, the canary choice and the traffic record use."""
    given: bytes = b""
    """The same inputs as the caller spelt them, where a reply that echoes them would otherwise differ; else empty."""
    needs_model: bool = True
    """False for a request that wants an empty answer; `Route.answer` then gets no tensors."""
    drift: Sequence[str] = ()
    """Where the request, though good, strays from the subnet's schema as we know it: our own words, for counters."""


class Inputs(NamedTuple):
    """What goes to Triton for a task, and what must be recorded to send the same again."""

    tensors: Tensors
    recorded: dict[str, Any]
    """JSON-able facts about the inputs (price, its age, marks such as ``stale_price``)."""


class Route(Protocol):
    """One legacy synapse of a subnet, served at ``POST /<synapse>`` in every dialect."""

    synapse: str
    hash_fields: Sequence[str]
    """Fields that the legacy body hash covers, in declared order (SDK 8 to 10); empty: the body is unauthenticated."""
    model_order: Sequence[str]
    """The same fields in the order of the subnet's model, as SDK 6 and 7 hashes them.

    Either order is accepted; where two fields could trade their values, give the declared order here too.
    """
    monotonic_nonces: bool
    """Whether legacy callers before SDK 7.2 may call; their nonces are monotonic clocks, so they have no window."""
    max_body: int
    """Bytes."""
    max_timeout: Seconds
    """The longest time a caller may claim; also the deadline when it names none."""
    pin_s: Seconds
    """How long a caller's answers come from one release, whatever the routes say."""
    retry_status: int
    """How a legacy caller is told that no answer can be had now: 503, or the status on which alone it tries again."""

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        """Typed Python values of `hash_fields`, as the SDK hashes them."""
        ...

    def parse(self, body: dict[str, Any], now: UnixSeconds) -> Task:
        """The task in a decoded JSON body at subnet time `now`; raises Refusal (400) in one clear line."""
        ...

    def restore(self, recorded: bytes, now: UnixSeconds) -> Task:
        """The task whose `given` (or, without one, `canonical`) was `recorded` at subnet time `now`; for replays."""
        ...

    def inputs(self, task: Task, seed: int, prices: PriceBook | None, now: UnixSeconds) -> Inputs:
        """Tensors for the task; raises Refusal (503) when the facts it needs are missing or too old."""
        ...

    def answer(self, task: Task, outputs: Tensors) -> Any:
        """The subnet's answer from the model's tensors, in whatever form `check` and `reply` read fastest."""
        ...

    def check(self, task: Task, answer: Any) -> str | None:
        """The validator's own validity rules: None when valid, else the reason."""
        ...

    def reply(self, task: Task, answer: Any, *, legacy: bool) -> Body:
        """The JSON body of a 200: inputs echoed for a legacy caller, outputs alone otherwise."""
        ...


class StreamRoute(Route, Protocol):
    """A route whose answer goes out in chunks, from a decoupled model.

    `answer`, `check` and `reply` are asked of each response of the model: its chunk, whether it may go out, its bytes.
    """

    def whole(self, task: Task, chunks: int) -> str | None:
        """Whether an answer that ends after so many chunks is complete: None when it is, else what is missing."""
        ...


def streams(route: Route) -> TypeGuard[StreamRoute]:
    """Whether a route's answer goes out in chunks."""
    return hasattr(route, "whole")


class Subnet(Protocol):
    """A subnet that Headframe can mine."""

    name: str
    netuid: NetUid
    slots: Sequence[SlotName]
    routes: Sequence[Route]


__all__ = ["NO_PIN", "Body", "Inputs", "Refusal", "Route", "StreamRoute", "Subnet", "Task", "Tensors", "streams"]
