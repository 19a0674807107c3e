"""One request and its reply, as far as they are known."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serving.call import Call, Stages
from serving.errors import UNAVAILABLE
from serving.public.connections import Connection
from serving.public.origins import NOWHERE, Address
from serving.streaming import Outlet
from serving.subnets.base import Route, Task
from serving.wire.claim import DialectName, reads_bt_headers

_DRAINABLE = 64 * 1024
"""Bytes of an unread body that are not worth closing a connection for."""


class Exchange(msgspec.Struct):
    """What the road has found out so far; written from top to bottom."""

    stages: Stages
    listed: Sequence[tuple[bytes, bytes]]
    """Its headers as they came, by lower-case name."""
    connection: Connection | None = None
    """None where the server is not our own."""
    address: Address = NOWHERE.address
    route: str = "other"
    dialect: DialectName | None = None
    retry_status: int = UNAVAILABLE
    """Its route's, once that is known."""
    welcome: bool = False
    """Whether it claims a hotkey that may call."""
    body_read: bool = False
    held: int = 0
    """Bytes of its body that count against `serving.public.bodies`."""
    call: Call | None = None
    """There once the signature was good and the nonce new."""
    out: Outlet | None = None
    """Where a streamed answer goes."""
    shadow: tuple[Call, Route, Task] | None = None
    """What a shadow release is given once the answer is out."""

    @property
    def gone(self) -> bool:
        """Whether the caller hung up."""
        return self.connection is not None and self.connection.gone

    def refused_in(self) -> DialectName | None:
        """The dialect to refuse it in, which may be plain before it was read."""
        return self.dialect or ("legacy" if reads_bt_headers(name for name, _ in self.listed) else None)

    def unread(self) -> bool:
        """Whether a body is still to come that is long or endless, or waits for leave to be sent."""
        if self.body_read:
            return False
        return any(
            name in (b"transfer-encoding", b"expect") or (name == b"content-length" and not _is_short(value))
            for name, value in self.listed
        )


def _is_short(length: bytes) -> bool:
    return length.isdigit() and len(length) < 12 and int(length) <= _DRAINABLE
