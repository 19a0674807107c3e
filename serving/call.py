"""One verified call on its way through the gateway, and what the traffic record will say of it."""

from __future__ import annotations

import time
from hashlib import sha256
from time import perf_counter_ns
from typing import Any, Literal, get_args

import msgspec

from serving.identity import Caller
from serving.subnets.base import Inputs, Task, Tensors
from serving.traffic.records import Role, TensorBytes, TrafficRecord
from serving.triton import pack
from serving.types import Hotkey, ReleaseId, SlotName, UnixSeconds
from serving.wire.claim import DialectName

Stage = Literal[
    "head", "identity", "body", "signature", "nonce", "parse", "queue", "inputs", "triton", "answer", "wait", "send"
]
STAGES: tuple[Stage, ...] = get_args(Stage)
NO_TASK = Task(SlotName(""), None, b"")
"""Of a call whose body was not understood, or a ping."""
NO_INPUTS = Inputs({}, {})
_PLACE = {stage: place for place, stage in enumerate(STAGES)}


class Stages:
    """Time by stage of the road; a stage that is passed twice adds up."""

    __slots__ = ("_last", "_started", "ns")

    def __init__(self) -> None:
        self._started = self._last = perf_counter_ns()
        self.ns = [0] * len(STAGES)
        """Nanoseconds, in the order of `STAGES`; 0 for a stage that was not passed."""

    def mark(self, stage: Stage) -> None:
        """The time since the last mark belongs to `stage`."""
        now = perf_counter_ns()
        self.ns[_PLACE[stage]] += now - self._last
        self._last = now

    def total_ns(self) -> int:
        """Nanoseconds since the request arrived."""
        return perf_counter_ns() - self._started

    def total_s(self) -> float:
        """Seconds since the request arrived."""
        return self.total_ns() / 1e9

    def ms(self) -> dict[str, float]:
        """Milliseconds by stage, and their ``total`` so far."""
        passed: dict[str, float] = {stage: ns / 1e6 for stage, ns in zip(STAGES, self.ns, strict=True) if ns}
        passed["total"] = self.total_ns() / 1e6
        return passed


class Call(msgspec.Struct, kw_only=True):
    """A call whose signature is good and whose nonce is new."""

    request_id: str
    dialect: DialectName
    synapse: str
    caller: Caller
    at: float
    """Wall time of arrival, unix s."""
    subnet_at: UnixSeconds
    """Subnet time of arrival, unix s."""
    deadline: float
    """`time.monotonic` seconds at which the answer must be on its way."""
    timeout_s: float
    """What the caller allows, as far as the route allows it."""
    stages: Stages
    receiver: Hotkey = Hotkey("")
    """Our hotkey that was called."""
    netuid: int = 0
    authenticated: bool = False
    """Whether the signature covers the inputs."""

    task: Task | None = None
    seed: int = 0
    inputs: Inputs | None = None
    role: Role = "none"
    release: ReleaseId | None = None
    digest: str | None = None
    answer_bytes: int = 0
    answer_crc: int | None = None

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def record(self, status: int, code: str, reason: str | None = None) -> TrafficRecord:
        """The record of this call's own answer or refusal, bodies included."""
        task, inputs = self.task or NO_TASK, self.inputs or NO_INPUTS
        return TrafficRecord(
            request_id=self.request_id, at=self.at, subnet_at=self.subnet_at, dialect=self.dialect,
            caller=self.caller.hotkey, receiver=self.receiver, netuid=self.netuid, authenticated=self.authenticated,
            slot=task.slot, synapse=self.synapse, role=self.role, release=self.release, status=status, code=code,
            reason=reason, request=task.canonical, given=task.given, seed=self.seed, inputs=inputs.recorded,
            tensors={name: tensor_bytes(tensor) for name, tensor in inputs.tensors.items()},
            answer_digest=self.digest, answer_bytes=self.answer_bytes, answer_crc=self.answer_crc,
            deadline_s=self.timeout_s, timings_ms=self.stages.ms(),
        )  # fmt: skip

    def side_record(
        self, *, role: Role, release: ReleaseId, code: str, reason: str | None, digest: str | None,
        model_ms: float | None = None,
    ) -> TrafficRecord:  # fmt: skip
        """The record of another release's try at the same request; the bodies are in the call's own record.

        `model_ms` is what this try took, where it ran beside the call.
        """
        timings_ms = self.stages.ms() if model_ms is None else {"triton": model_ms}
        return msgspec.structs.replace(
            self.record(200 if code == "ok" else 500, code, reason), role=role, release=release, answer_digest=digest,
            request=b"", given=b"", tensors={}, answer_bytes=0, answer_crc=None, timings_ms=timings_ms,
        )  # fmt: skip


def tensor_bytes(tensor: Any) -> TensorBytes:
    """A tensor as the traffic record keeps it: Triton's datatype and the very bytes that it was sent."""
    datatype, raw = pack(tensor)
    return TensorBytes(dtype=datatype, shape=list(tensor.shape), data=raw)


def answer_digest(outputs: Tensors) -> str:
    """sha256 of the output tensors' bytes as Triton gave them, in the order of their names."""
    digest = sha256()
    for name in sorted(outputs):
        digest.update(pack(outputs[name])[1])
    return digest.hexdigest()
