"""Which release goes on answering a caller for the rest of its round, where a subnet compares answers across calls.

Such a subnet pays nothing for a round in which two answers to the same text differ, so no rollout, canary or rollback
may come between them.
"""

from __future__ import annotations

import struct
from contextlib import suppress

import lmdb

from serving.types import Hotkey, ReleaseId, SlotName
from serving.wire.keys import PublicKey

_UNTIL = struct.Struct(">d")


class Pins:
    """One pin for each slot, hotkey of ours and caller, shared by the workers of a box and kept across restarts.

    It begins with the first answer and ends a fixed time later, however often it is used, so that no caller stays with
    an old release for good. Times are unix seconds. A pin that cannot be read or written is as none: an answer is
    worth more.
    """

    def __init__(self, env: lmdb.Environment) -> None:
        self._env = env
        self._db = env.open_db(b"pins")

    def get(self, slot: SlotName, receiver: Hotkey, caller: PublicKey, now: float) -> ReleaseId | None:
        """The release that this caller's round began with, if it is not over."""
        with suppress(lmdb.Error), self._env.begin(db=self._db) as txn:
            return _release(txn.get(_key(slot, receiver, caller)), now)
        return None

    def put(
        self, slot: SlotName, receiver: Hotkey, caller: PublicKey, release: ReleaseId, *, until: float
    ) -> None:  # fmt: skip
        """The caller's round began with this release, and is over at `until`."""
        with suppress(lmdb.Error), self._env.begin(write=True, db=self._db) as txn:
            txn.put(_key(slot, receiver, caller), _UNTIL.pack(until) + release.encode())

    def held(self, now: float) -> set[ReleaseId]:
        """Every release that some caller's round began with: they must stay loaded."""
        with suppress(lmdb.Error), self._env.begin(db=self._db) as txn, txn.cursor() as cursor:
            return {release for value in cursor.iternext(keys=False) if (release := _release(value, now))}
        return set()

    def forget(self, now: float) -> None:
        """Drop the pins that are over."""
        with suppress(lmdb.Error):
            with self._env.begin(db=self._db) as txn, txn.cursor() as cursor:
                over = [key for key, value in cursor if _release(value, now) is None]
            if over:
                self._drop(over, now)

    def _drop(self, keys: list[bytes], now: float) -> None:
        with self._env.begin(write=True, db=self._db) as txn:
            for key in keys:
                if _release(txn.get(key), now) is None:  # no new round began meanwhile
                    txn.delete(key)


def _key(slot: SlotName, receiver: Hotkey, caller: PublicKey) -> bytes:
    return caller + receiver.encode() + b"/" + slot.encode()


def _release(value: bytes | None, now: float) -> ReleaseId | None:
    if value is None or now >= _UNTIL.unpack_from(value)[0]:
        return None
    return ReleaseId(value[_UNTIL.size :].decode())
