"""Closed segments of the traffic record into the object store: each becomes exactly one Parquet object.

The object's key is made of the segment's name and the digest of its rows, and the object is put only if it is absent.
Then the segment gets its mark. Whoever dies between the two does the same again, and makes nothing new.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from infra.traffic import rows
from serving.clock import replace_file
from serving.errors import UserError
from serving.traffic.metrics import SHIPPING, read_shipping
from serving.traffic.records import TrafficRecord
from serving.traffic.retention import Mark, mark_of, read_mark
from serving.traffic.segments import MAGIC, frame, frames, is_live, segments
from serving.traffic.writer import decode_record

if TYPE_CHECKING:
    from infra.objects import ObjectStore

PREFIX = "traffic/"
_DAY = f"{PREFIX}date="


class ShippingError(UserError):
    """A segment that cannot be shipped; it stays where it is."""


def key_of(segment: str, sha256: str) -> str:
    """The key of a segment's object: ``traffic/date=YYYY-MM-DD/<segment>-<12 hex>.parquet``, the day it was begun."""
    return f"{_DAY}{_day(opened_at(segment))}/{segment}-{sha256[:12]}.parquet"


def segment_of(key: str) -> str:
    """The name of the segment in a key."""
    return key.rpartition("/")[2].rpartition("-")[0]


def opened_at(segment: str) -> float:
    """When a segment was begun, unix s: its name begins with that in milliseconds."""
    try:
        return int(segment.partition("-")[0]) / 1e3
    except ValueError:
        raise ShippingError(f"{segment} is not the name of a segment of the traffic record") from None


def ship(folder: Path, store: ObjectStore, *, now: Callable[[], float] = time.time) -> list[Mark]:
    """Ship every closed segment that has no mark, oldest first; the marks made.

    One that this version cannot read stays and holds up no other: ShippingError names it at the end. What the object
    store does not do ends the run at once (ObjectStoreError).
    """
    made, problems = [], []
    for path in waiting(folder):
        try:
            made.append(_ship(path, store, now))
        except FileNotFoundError:  # removed meanwhile
            continue
        except (ShippingError, rows.RowsError) as error:
            problems.append(str(error))
    if problems:
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise ShippingError(f"{problems[0]}{more}")
    return made


def waiting(folder: Path) -> list[Path]:
    """Closed segments that have no mark, oldest first; a killed writer's is closed."""
    return [path for path in segments(folder) if read_mark(path) is None and not is_live(path)]


def ship_and_tell(
    folder: Path, connect: Callable[[], ObjectStore], *, now: Callable[[], float] = time.time
) -> list[Mark]:
    """`ship` to the store that `connect` makes when there is something to ship; how it went is in ``shipping.json``."""
    state = read_shipping(folder)
    try:
        made = ship(folder, connect(), now=now) if waiting(folder) else []
    except Exception as error:
        state.failures += 1
        state.error = str(error)[:500]
        raise
    else:
        state.at, state.error = now(), None
        return made
    finally:
        with contextlib.suppress(OSError):  # the disk is full: what was shipped has its marks
            replace_file(folder / SHIPPING, msgspec.json.encode(state))


def expire(store: ObjectStore, keep_days: int, *, now: Callable[[], float] = time.time) -> int:
    """Delete the objects of days that ended more than `keep_days` days ago, and nothing else; how many."""
    limit = _DAY + _day(now() - keep_days * 86_400.0)
    old = [key for key in store.list(_DAY) if key < limit]
    for key in old:
        store.delete(key)
    return len(old)


def _ship(path: Path, store: ObjectStore, now: Callable[[], float]) -> Mark:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:  # a damaged disk: the others can still be saved
        raise ShippingError(f"{path.name} cannot be read ({error.strerror}); check the disk") from None
    records, damaged = _whole(data, path.name)
    sha256, key = rows.digest(records), ""
    if records:
        key = key_of(path.stem, sha256)
        body = rows.encode(records, path.stem, damaged_bytes=damaged)
        if not store.put(key, body, only_if_absent=True):
            _check_there(store, key, sha256)
    times = [record.at for record in records] or [0.0]
    mark = Mark(
        key=key, rows=len(records), sha256=sha256, first=min(times), last=max(times), at=now(), damaged_bytes=damaged
    )
    replace_file(mark_of(path), msgspec.json.encode(mark))
    return mark


def _whole(data: bytes, name: str) -> tuple[list[TrafficRecord], int]:
    """Records of a segment's whole frames, and how many bytes lie behind them."""
    records, read = [], len(MAGIC)
    for payload in frames(data):
        try:
            records.append(decode_record(payload))
        except ValueError:
            raise ShippingError(f"{name} holds records that this version cannot read: a later one wrote them") from None
        read += len(frame(payload))
    return records, max(0, len(data) - read)


def _check_there(store: ObjectStore, key: str, sha256: str) -> None:
    """That the object which has the key holds these rows: an earlier run put it and died before the mark."""
    footer, table = rows.decode(store.get(key), key)
    if rows.digest(rows.records_of(footer, table, key)) != sha256:
        raise ShippingError(f"{key} in the object store holds other rows than the segment of its name")


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
