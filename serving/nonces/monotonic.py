"""Nonces of callers before SDK 7.2: clocks that start at no known time, so nothing says how old one is.

Each must exceed the last of its uuid, which names one Dendrite object, for ever. Forgetting a uuid would let its
captured requests in again, so nothing is forgotten without a trace: a Dendrite's uuid is of version 1 and tells when
it was made; when a sender has too many, the oldest by that time leaves, and no unknown uuid as old as that is taken
again.
"""

from __future__ import annotations

import threading
from pathlib import Path
from uuid import UUID

import lmdb
import msgspec

from serving.errors import Refusal
from serving.wire.keys import PublicKey

MOST_UUIDS = 64
"""Of one sender towards one of our hotkeys."""
MAP_BYTES = 64 * 1024 * 1024
_UUID_EPOCH = 0x01B21DD213814000
"""1582-10-15 to 1970-01-01 in the 100 ns steps of version 1 (RFC 9562, section 5.1)."""


class Last(msgspec.Struct, frozen=True):
    """What one sender has used towards one of our hotkeys."""

    nonces: dict[str, int]
    """The last nonce of each uuid."""
    after: int = 0
    """Unix ns: an unknown uuid must have been made later."""


def made_ns(uuid: str) -> int | None:
    """When a uuid of version 1 was made, unix ns; None for any other text."""
    try:
        parsed = UUID(uuid)
    except ValueError:
        return None
    return (parsed.time - _UUID_EPOCH) * 100 if parsed.version == 1 else None


def advanced(last: Last, uuid: str, nonce: int, *, since: int = 0) -> Last:
    """`last` with this nonce used; raises Refusal (401) when it is no advance, or when the uuid cannot be taken.

    `since` (unix ns): what was used before is not known, so an unknown uuid must have been made later.
    """
    known = last.nonces.get(uuid)
    if known is not None:
        if nonce <= known:
            raise Refusal(401, "replayed", "a newer nonce of this uuid was used already")
        return Last({**last.nonces, uuid: nonce}, last.after)
    made = made_ns(uuid)
    if (made is None and since) or (made is not None and made <= max(last.after, since)):
        raise Refusal(401, "uuid_too_old", "the uuid is older than what this miner remembers; start the caller anew")
    nonces = {**last.nonces, uuid: nonce}
    if len(nonces) <= MOST_UUIDS:
        return Last(nonces, last.after)
    dated = [(at, name) for name in nonces if (at := made_ns(name)) is not None]
    if made is None or min(dated)[1] == uuid:
        raise Refusal(401, "too_many_uuids", "this hotkey has used as many uuids as this miner remembers")
    gone_at, gone = min(dated)
    del nonces[gone]
    return Last(nonces, gone_at)


class MonotonicStore:
    """The last nonces on one box: an LMDB of its own, synced at every step, since no window limits a loss."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opening = threading.Lock()
        self._env: lmdb.Environment | None = None

    def advance(self, sender: PublicKey, receiver: PublicKey, uuid: str, nonce: int) -> None:
        """Record the nonce, on the disk when this returns (milliseconds); raises Refusal 401, or 503 when it cannot."""
        try:
            with self._opened().begin(write=True) as txn:
                stored = txn.get(sender + receiver)
                last = msgspec.msgpack.decode(stored, type=Last) if stored is not None else Last({})
                txn.put(sender + receiver, msgspec.msgpack.encode(advanced(last, uuid, nonce)))
        except (lmdb.Error, OSError, ValueError):
            raise Refusal(503, "replay_store_down", "the replay store cannot be used", retry_after=5) from None

    def close(self) -> None:
        """Let go of the files."""
        with self._opening:
            if self._env is not None:
                self._env.close()
            self._env = None

    def _opened(self) -> lmdb.Environment:
        """Opened at the first use: most miners never take such a nonce."""
        with self._opening:
            if self._env is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._env = lmdb.open(str(self._folder), map_size=MAP_BYTES, max_readers=256)
                self._env.reader_check()  # places of workers that died
            return self._env
