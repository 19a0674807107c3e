"""The replay store: each (sender, receiver, nonce) once, across worker processes, kills and restarts.

Nonces are unix nanoseconds, so LMDB keeps them in order of time and the oldest leave first. One number, the
*barrier*, closes every gap: a nonce at or below it is refused. It rises with what has expired (so a clock that steps
back reopens nothing), and is set to the *floor* (`serving.nonces.floor`) when the set itself cannot be trusted.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from pathlib import Path
from typing import Protocol

import lmdb

from serving.errors import Refusal, UserError
from serving.nonces.floor import LEAD_NS, boot_id, keep_floor, read_floor
from serving.nonces.monotonic import MonotonicStore
from serving.types import NonceNs
from serving.wire.keys import PublicKey

MAP_BYTES = 512 * 1024 * 1024
"""Address space; the file grows with what is remembered."""
AHEAD_BYTES = 2 * 1024 * 1024
"""Disk that is set aside before it is needed, renewed every second: room for some ten thousand nonces."""
MOST = 1_000_000
"""Nonces remembered at a time. They fill less than half of the map even at LMDB's worst packing, which matters because
a map that is quite full cannot be cleared any more."""
FLOOR_TRUSTED_S = 10.0
"""How long a worker believes what it last read of the floor."""
_BARRIER = b"barrier"
_PURGE_BATCH = 500
_U64 = struct.Struct(">Q")


class ReplayStore(Protocol):
    """Where accepted nonces are remembered; on one box or shared by several.

    Every method raises Refusal 503 (``replay_store_down``, ``replay_store_full``) rather than accept what it cannot
    remember.
    """

    async def spend(self, sender: PublicKey, receiver: PublicKey, nonce: NonceNs, now_ns: int) -> None:
        """Record the three together; raises Refusal (401) when they were there already or are too old to know.

        One sender's parallel requests may come in any order, and one nonce may serve several miners.
        """
        ...

    async def advance(self, sender: PublicKey, receiver: PublicKey, uuid: str, nonce: int) -> None:
        """Record a monotonic nonce; raises Refusal (401) unless it exceeds the last of sender, receiver and uuid."""
        ...

    async def tick(self, now_ns: int) -> None:
        """Housekeeping, every second: forget what expired."""
        ...

    async def close(self) -> None:
        """Let go of files or connections."""
        ...


def open_store(folder: Path) -> lmdb.Environment:
    """The LMDB environment of a replay store; once a process.

    Commits go to the page cache without a sync: they survive the kill of any process, which is what happens; the
    floor covers the crash of the machine. They go there through the map, which spares a request eight writes of a
    page each; so the disk's room must be there beforehand (`set_aside`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    env = lmdb.open(
        str(folder), map_size=MAP_BYTES, max_dbs=4, max_readers=256, sync=False, metasync=False, readahead=False,
        writemap=True, map_async=True,
    )  # fmt: skip
    env.reader_check()  # workers that died kept their places among the readers, and what they read in the file
    return env


def set_aside(env: lmdb.Environment, folder: Path) -> None:
    """Take the room that the store needs next from the disk; raises OSError when there is none.

    The file is sparse, and whoever writes to a page of the map that the disk has no room for is killed (SIGBUS).
    """
    with env.begin() as txn:
        used = (env.info()["last_pgno"] + 1) * int(txn.stat()["psize"])
    with (folder / "data.mdb").open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, min(used + AHEAD_BYTES, MAP_BYTES))


def prepare_store(folder: Path, now_ns: int) -> None:
    """Decide at start whether the remembered set can be trusted, before any worker opens it; raises UserError.

    It can when this boot of the machine wrote it. Otherwise it is begun anew, and everything up to the floor (or up
    to now, when there is no floor) is refused.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = read_floor(folder)
        boot = boot_id()
        if known is None or known.boot != boot or not boot or not _whole(folder):
            _begin(folder, known.floor if known is not None else now_ns)
        with open_store(folder) as env:
            set_aside(env, folder)
        keep_floor(folder, now_ns)
    except (lmdb.Error, OSError) as error:
        raise UserError(f"the replay store {folder} cannot be written ({error}); check the disk") from None


def _whole(folder: Path) -> bool:
    """Whether the data file opens and has every page that it speaks of."""
    data = folder / "data.mdb"
    try:
        if not data.exists():
            return False
        size = data.stat().st_size  # opening it makes it as long as the map
        with open_store(folder) as env, env.begin() as txn:
            return size >= (env.info()["last_pgno"] + 1) * int(txn.stat()["psize"])
    except lmdb.Error:
        return False


def _begin(folder: Path, barrier: int) -> None:
    for name in ("data.mdb", "lock.mdb"):
        (folder / name).unlink(missing_ok=True)
    with open_store(folder) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True, db=meta) as txn:
            txn.put(_BARRIER, _U64.pack(barrier))
        env.sync(True)


class NonceStore:
    """The replay store of one box: LMDB, shared by its worker processes."""

    def __init__(
        self, env: lmdb.Environment, folder: Path, *, retention_s: float, most: int = MOST,
        monotonic: MonotonicStore | None = None,
    ) -> None:  # fmt: skip
        """`retention_s`: at least twice the widest window of any route, in seconds. One store a process and folder."""
        self._env = env
        self._folder = folder
        self._retention_ns = int(retention_s * 1e9)
        self._most = most
        self._seen = env.open_db(b"seen")
        self._meta = env.open_db(b"meta")
        self._floor = 0
        self._floor_read = -FLOOR_TRUSTED_S
        self._full = False
        self._monotonic = monotonic or MonotonicStore(folder / "monotonic")

    async def spend(self, sender: PublicKey, receiver: PublicKey, nonce: NonceNs, now_ns: int) -> None:
        """See `ReplayStore`. On record in every process when this returns; it takes microseconds, so nothing waits."""
        try:
            if nonce > self._floor or time.monotonic() - self._floor_read > FLOOR_TRUSTED_S:
                self._keep_floor(now_ns)
            fresh = not self._full and self._add(_U64.pack(nonce) + sender + receiver, nonce)
        except lmdb.MapFullError:
            self._full = True
        except (lmdb.Error, OSError):
            raise _down() from None
        if self._full:
            raise Refusal(503, "replay_store_full", "too many requests to remember", retry_after=5)
        if not fresh:
            raise Refusal(401, "replayed", "this nonce was used already")

    async def advance(self, sender: PublicKey, receiver: PublicKey, uuid: str, nonce: int) -> None:
        """See `ReplayStore`. Synced to the disk, so it is done beside the event loop."""
        await asyncio.to_thread(self._monotonic.advance, sender, receiver, uuid, nonce)

    async def tick(self, now_ns: int) -> None:
        """Forget what expired, and keep the floor well ahead, so that `spend` rarely waits for the disk."""
        try:
            await asyncio.to_thread(self._tick, now_ns)
        except (lmdb.Error, OSError):
            raise _down() from None

    async def close(self) -> None:
        """The environment is its opener's to close."""
        self._monotonic.close()

    def count(self) -> int:
        """Nonces remembered."""
        with self._env.begin() as txn:
            return int(txn.stat(self._seen)["entries"])

    def _tick(self, now_ns: int) -> None:
        self._purge(now_ns)
        self._full = self.count() >= self._most or not self._has_room()
        self._keep_floor(now_ns, accepted=self._highest())

    def _has_room(self) -> bool:
        try:
            set_aside(self._env, self._folder)
        except OSError:
            return False
        return True

    def _keep_floor(self, now_ns: int, accepted: int | None = None) -> None:
        self._floor = keep_floor(self._folder, now_ns, accepted=accepted)
        self._floor_read = time.monotonic()

    def _add(self, key: bytes, nonce: int) -> bool:
        with self._env.begin(write=True) as txn:
            barrier = txn.get(_BARRIER, db=self._meta)
            if barrier is not None and nonce <= _U64.unpack(barrier)[0]:
                raise Refusal(401, "before_start", "the nonce is older than what this miner remembers")
            return bool(txn.put(key, b"", overwrite=False, db=self._seen))

    def _highest(self) -> int:
        """No accepted nonce is above this."""
        with self._env.begin() as txn:
            cursor = txn.cursor(self._seen)
            barrier = txn.get(_BARRIER, db=self._meta)
            last = _U64.unpack_from(cursor.key())[0] if cursor.last() else 0
            return max(last, _U64.unpack(barrier)[0] if barrier is not None else 0)

    def _purge(self, now_ns: int) -> None:
        """Delete what is older than the retention, in short transactions, and raise the barrier to match."""
        cutoff = now_ns - self._retention_ns
        more = True
        while more:
            with self._env.begin(write=True) as txn:
                cursor = txn.cursor(self._seen)
                batch = 0
                last = 0
                while batch < _PURGE_BATCH and cursor.first() and _U64.unpack_from(cursor.key())[0] <= cutoff:
                    last = _U64.unpack_from(cursor.key())[0]
                    cursor.delete()
                    batch += 1
                more = batch == _PURGE_BATCH
                if batch:
                    barrier = txn.get(_BARRIER, db=self._meta)
                    if barrier is None or _U64.unpack(barrier)[0] < last:
                        txn.put(_BARRIER, _U64.pack(last), db=self._meta)


def _down() -> Refusal:
    return Refusal(503, "replay_store_down", "the replay store cannot be used", retry_after=5)


__all__ = ["LEAD_NS", "NonceStore", "ReplayStore", "open_store", "prepare_store"]
