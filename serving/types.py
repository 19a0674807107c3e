"""The ids and units that serving, infra and flows share; a wrong one must not type-check."""

from __future__ import annotations

from typing import Literal, NewType

Hotkey = NewType("Hotkey", str)
"""An ss58 address, prefix 42."""
NetUid = NewType("NetUid", int)
Uid = NewType("Uid", int)
SlotName = NewType("SlotName", str)
"""One kind of answer that a subnet buys, such as ``synth-high``."""
ReleaseId = NewType("ReleaseId", str)
"""``<slot>-<12 hex of the manifest's sha256>``: the Triton model name too."""
Sha256 = NewType("Sha256", str)
"""64 lower-case hex digits."""
Asset = NewType("Asset", str)
NonceNs = NewType("NonceNs", int)
Seconds = NewType("Seconds", float)
UnixSeconds = NewType("UnixSeconds", float)
"""Seconds since 1970-01-01T00:00:00Z."""
AlphaRao = NewType("AlphaRao", int)
Rao = NewType("Rao", int)

Life = Literal["lives", "silent", "away"]
"""What a server that is asked whether it lives makes known: that it does, nothing at all, or that it is not there."""

Body = bytes | memoryview
"""The bytes of a reply; a view where they lie in an array already, since a large one is not worth a copy."""
