"""The replay store: each (sender, nonce) once, across worker processes, kills and restarts.

Nonces are unix nanoseconds, so LMDB keeps them in order of time and the oldest leave first. One number, the
*barrier*, closes every gap: a nonce at or below it is refused. It rises with what has expired (so a clock that steps
back reopens nothing), and is set to the *floor* when the set itself cannot be trusted. The floor is a small synced
file that is always ahead of every accepted nonce; it matters after a crash of the whole machine, when the pages of
LMDB that were not yet on disk are gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import lmdb
import msgspec

from serving.errors import Refusal, UserError
from serving.types import NonceNs
from serving.wire.keys import PublicKey

MAP_BYTES = 256 * 1024 * 1024
LEAD_NS = 30_000_000_000
"""How far the floor is put ahead of now; must exceed every dialect's future bound."""
_BARRIER = b"barrier"
_PURGE_BATCH = 500
_U64 = struct.Struct(">Q")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ReplayStore(Protocol):
    """Where accepted nonces are remembered; on one box or shared by several."""

    async def spend(self, sender: PublicKey, receiver: PublicKey, nonce: NonceNs, now_ns: int) -> None:
        """Record the three together; raises Refusal (401) when they were there already or are too old to know."""
        ...

    async def tick(self, now_ns: int) -> None:
        """Housekeeping, every few seconds: forget what expired, keep the floor ahead."""
        ...


class _Floor(msgspec.Struct, frozen=True):
    boot: str
    floor: int


def open_store(folder: Path) -> lmdb.Environment:
    """The LMDB environment of a replay store; once a process.

    Commits go to the page cache without a sync: they survive the kill of any process, which is what happens; the
    floor covers the crash of the machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return lmdb.open(
        str(folder), map_size=MAP_BYTES, max_dbs=4, max_readers=256, sync=False, metasync=False, readahead=False
    )


def prepare_store(folder: Path, now_ns: int) -> None:
    """Decide at start whether the remembered set can be trusted, before any worker opens it.

    It can when this boot of the machine wrote it. Otherwise it is begun anew, and everything up to the floor (or up
    to now, when there is no floor) is refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = _read_floor(folder)
    boot = _boot_id()
    if known is not None and known.boot == boot and boot and (folder / "data.mdb").exists():
        try:
            with open_store(folder) as env, env.begin():
                return
        except lmdb.Error:
            pass  # as good as lost: the floor stands in for it
    for name in ("data.mdb", "lock.mdb"):
        (folder / name).unlink(missing_ok=True)
    barrier = known.floor if known is not None else now_ns
    try:
        with open_store(folder) as env:
            meta = env.open_db(b"meta")
            with env.begin(write=True, db=meta) as txn:
                txn.put(_BARRIER, _U64.pack(barrier))
            env.sync(True)
    except lmdb.Error as error:
        raise UserError(f"the replay store {folder} cannot be opened ({error}); check the disk") from None
    _raise_floor(folder, now_ns)


class NonceStore:
    """The replay store of one box: LMDB, shared by its worker processes."""

    def __init__(self, env: lmdb.Environment, folder: Path, *, retention_s: float) -> None:
        """`retention_s`: at least twice the widest window of any route, in seconds."""
        self._env = env
        self._folder = folder
        self._retention_ns = int(retention_s * 1e9)
        self._seen = env.open_db(b"seen")
        self._meta = env.open_db(b"meta")
        self._floor = 0

    async def spend(self, sender: PublicKey, receiver: PublicKey, nonce: NonceNs, now_ns: int) -> None:
        """Record the three together; raises Refusal 401 (replayed, or too old to know) or 503 (the store is full).

        They are on record in every process when this returns; parallel requests of one sender may come in any order,
        and one nonce may serve several miners of one box. Nothing here waits: LMDB answers in microseconds.
        """
        if nonce > self._floor:
            self._floor = _raise_floor(self._folder, now_ns)
        try:
            fresh = self._add(_U64.pack(nonce) + sender + receiver, nonce)
        except lmdb.MapFullError:
            self._purge(now_ns)
            raise Refusal(503, "replay_store_full", "too many requests to remember", retry_after=5) from None
        if not fresh:
            raise Refusal(401, "replayed", "this nonce was used already")

    async def tick(self, now_ns: int) -> None:
        """Forget what expired and keep the floor well ahead, so that `spend` rarely waits for the disk."""
        await asyncio.to_thread(self._tick, now_ns)

    def _tick(self, now_ns: int) -> None:
        self._purge(now_ns)
        if self._floor < now_ns + LEAD_NS // 2:
            self._floor = _raise_floor(self._folder, now_ns)

    def count(self) -> int:
        """Pairs remembered."""
        with self._env.begin() as txn:
            return int(txn.stat(self._seen)["entries"])

    def _add(self, key: bytes, nonce: int) -> bool:
        with self._env.begin(write=True) as txn:
            barrier = txn.get(_BARRIER, db=self._meta)
            if barrier is not None and nonce <= _U64.unpack(barrier)[0]:
                raise Refusal(401, "before_start", "the nonce is older than what this miner remembers")
            return bool(txn.put(key, b"", overwrite=False, db=self._seen))

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


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _read_floor(folder: Path) -> _Floor | None:
    try:
        return msgspec.json.decode((folder / "floor.json").read_bytes(), type=_Floor)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "floor.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _raise_floor(folder: Path, now_ns: int) -> int:
    """Put the floor on disk ahead of now, if it is not; what stands on disk afterwards."""
    with _locked(folder):
        known = _read_floor(folder)
        boot = _boot_id()
        floor = known.floor if known is not None else 0
        if known is not None and known.boot == boot and floor >= now_ns + LEAD_NS * 3 // 4:
            return floor
        floor = max(floor, now_ns + LEAD_NS)
        fresh = folder / "floor.json.new"
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(_Floor(boot, floor)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, folder / "floor.json")
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return floor
