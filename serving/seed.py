"""The seed of an answer: the same request gets the same answer, whoever asks and whenever."""

from __future__ import annotations

import hashlib

from serving.types import SlotName

_MASK = (1 << 63) - 1  # 63 bits, so that it fits a signed column as well as Triton's UINT64


def seed_of(slot: SlotName, canonical: bytes) -> int:
    """First 8 bytes (big endian, masked to 63 bits) of sha256 of the slot, a line feed, and `Task.canonical`."""
    digest = hashlib.sha256(slot.encode() + b"\n" + canonical).digest()
    return int.from_bytes(digest[:8], "big") & _MASK
