"""The traffic record read back: what is on this disk, and what was shipped."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from infra.traffic import rows
from infra.traffic.shipping import PREFIX, opened_at, segment_of
from serving.traffic.records import TrafficRecord
from serving.traffic.retention import MARK, Mark
from serving.traffic.segments import segments
from serving.traffic.writer import may_hold, read_segment

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from infra.objects import ObjectStore
    from infra.settings import Settings

LONGEST_SEGMENT_S = 3600.0
"""No segment is written for longer than this, so that its first moment bounds its last."""
LONGEST_ANSWER_S = 600.0
"""No request takes longer than this; its row is written at its end, often into a segment begun after it arrived."""
_MANY_DAYS = 62


def records(settings: Settings, since: float = 0.0) -> Iterator[TrafficRecord]:
    """Every record of this home that arrived at or after `since` (wall time, unix s).

    First those on this disk, oldest segment first, then those whose segment was shipped and removed, from the object
    store, which is asked only if there are such. Raises ObjectStoreError.
    """
    seen = set()
    for path in segments(settings.paths.traffic):
        try:
            found = read_segment(path) if may_hold(path, since) else []
        except FileNotFoundError:  # removed meanwhile: it has a mark
            continue
        seen.add(path.stem)
        yield from (record for record in found if record.at >= since)
    marks = removed(settings.paths.traffic, since)
    yield from _from_marks(settings, {name: mark for name, mark in marks.items() if name not in seen}, since)


def removed(folder: Path, since: float = 0.0) -> dict[str, Mark]:
    """Marks by segment, oldest first, of those that are shipped and no longer on this disk, with rows after `since`."""
    found = {}
    for path in sorted(folder.glob(f"*{MARK}")):
        try:
            mark = msgspec.json.decode(path.read_bytes(), type=Mark)
        except (FileNotFoundError, msgspec.DecodeError):
            continue
        if mark.key and mark.last >= since and not path.with_suffix(".seg").exists():
            found[path.stem] = mark
    return found


def shipped_records(
    store: ObjectStore, since: float = 0.0, until: float = math.inf, *, but: Collection[str] = ()
) -> Iterator[TrafficRecord]:
    """Shipped records of [since, until), whoever wrote them; `but` names segments to leave out.

    Newest segment first, and the newest of each first. Raises ObjectStoreError, and RowsError for an object that is
    not what its footer says.
    """
    for key in reversed(shipped_keys(store, since, until)):
        if segment_of(key) not in but:
            found = [each for each in _read(store, key) if since <= each.at < until]
            yield from sorted(found, key=lambda each: each.at, reverse=True)


def read_shipped(store: ObjectStore, since: float = 0.0, until: float = math.inf) -> pd.DataFrame:
    """Shipped rows that arrived in [since, until) (wall time, unix s), in order of arrival, columns as `rows.schema`.

    Times are timestamps in UTC, ``inputs`` is JSON text, ``tensors`` a list of dicts, ``timings_ms`` a dict. Raises
    ObjectStoreError, and RowsError for an object that is not what its footer says.
    """
    import pandas as pd
    import pyarrow as pa

    tables = []
    for key in shipped_keys(store, since, until):
        footer, table = rows.decode(store.get(key), key)
        rows.records_of(footer, table, key)
        tables.append(table)
    table = pa.concat_tables(tables, promote_options="default") if tables else rows.schema().empty_table()
    frame = table.to_pandas(maps_as_pydicts="strict")
    low = pd.Timestamp(rows.nanoseconds(since), tz="UTC")
    wanted = frame["at"] >= low
    if until < math.inf:
        wanted &= frame["at"] < pd.Timestamp(rows.nanoseconds(until), tz="UTC")
    found: pd.DataFrame = frame[wanted].sort_values(["at", "segment", "row"]).reset_index(drop=True)
    return found


def shipped_keys(store: ObjectStore, since: float = 0.0, until: float = math.inf) -> list[str]:
    """Keys of the objects that may hold rows of [since, until), oldest first."""
    begin, end = since - LONGEST_SEGMENT_S, until + LONGEST_ANSWER_S
    days = math.ceil((min(end, time.time() + 86_400.0) - begin) / 86_400.0) + 1
    if days > _MANY_DAYS:
        keys = store.list(PREFIX)
    else:
        first = datetime.fromtimestamp(begin, UTC)
        keys = [
            key
            for day in range(max(0, days))
            for key in store.list(f"{PREFIX}date={first + timedelta(days=day):%Y-%m-%d}/")
        ]
    return sorted(key for key in keys if key.endswith(".parquet") and begin <= opened_at(segment_of(key)) < end)


def _from_marks(settings: Settings, marks: dict[str, Mark], since: float) -> Iterator[TrafficRecord]:
    if not marks:
        return
    from infra.objects import object_store

    store = object_store(settings)
    for mark in marks.values():
        yield from (each for each in _read(store, mark.key) if each.at >= since)


def _read(store: ObjectStore, key: str) -> list[TrafficRecord]:
    footer, table = rows.decode(store.get(key), key)
    return rows.records_of(footer, table, key)
