"""One line of the traffic record: what is needed to answer the same request again, byte for byte."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Role = Literal["stable", "canary", "shadow", "fallback", "pinned", "none"]


class TensorBytes(msgspec.Struct, frozen=True):
    """A numpy array as it went to Triton."""

    dtype: str
    shape: list[int]
    data: bytes


class TrafficRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A request that reached a subnet's route with a good signature, and what became of it.

    A shadow's answer, and each release that a request was given to before a fallback answered, has a record
    of its own with the same `request_id`.
    """

    request_id: str
    at: float
    """Wall time of arrival, unix s."""
    subnet_at: float
    """Subnet time of arrival, unix s."""
    dialect: str
    caller: str
    """Hotkey, ss58."""
    receiver: str = ""
    """The hotkey of ours that was asked, ss58."""
    netuid: int = 0
    authenticated: bool = False
    """Whether the caller's signature covers the inputs, not only that it sent something."""
    slot: str
    synapse: str
    role: Role
    release: str | None
    status: int
    code: str
    """``ok``, ``invalid`` (the validator's rules failed on our answer), ``error``, or a refusal's code."""
    reason: str | None = None
    request: bytes = b""
    """`Task.canonical`."""
    given: bytes = b""
    """`Task.given`: the inputs as the caller spelt them, where that differs."""
    seed: int = 0
    inputs: dict[str, Any] = msgspec.field(default_factory=dict)
    """`Inputs.recorded`: the price used, its age, marks such as stale_price."""
    tensors: dict[str, TensorBytes] = msgspec.field(default_factory=dict)
    answer_digest: str | None = None
    """sha256 of the answer tensor's bytes as Triton gave it."""
    answer_bytes: int = 0
    """Length of the reply's body."""
    answer_crc: int | None = None
    """`serving.traffic.checksum` of the reply's body as it went over the wire; None when no answer went out.

    Of a streamed one it is the first chunk's, and CRC-32 goes on from there.
    """
    deadline_s: float = 0.0
    timings_ms: dict[str, float] = msgspec.field(default_factory=dict)
    """Milliseconds by stage; ``total`` is arrival to last byte handed over."""
