"""Which requests of the traffic record to answer again: this disk first, then what was shipped."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import NamedTuple

from infra.objects import ObjectStoreError, object_store
from infra.ports import endpoints
from infra.settings import Settings
from infra.traffic.reading import shipped_records
from infra.traffic.rows import RowsError
from infra.traffic.shipping import ShippingError
from serving.errors import UserError
from serving.traffic.records import TrafficRecord
from serving.traffic.segments import segments
from serving.traffic.writer import may_hold, read_segment


@dataclass(frozen=True)
class Wanted:
    """What to look for; times are wall time, unix s."""

    request_id: str | None = None
    slot: str | None = None
    since: float = 0.0
    until: float = math.inf
    limit: int = 100
    """The newest so many."""

    def has(self, record: TrafficRecord) -> bool:
        """Whether a record is one of a caller's own requests, and wanted."""
        return (
            is_own(record)
            and (self.request_id is None or record.request_id == self.request_id)
            and (self.slot is None or record.slot == self.slot)
            and self.since <= record.at < self.until
        )


class Chosen(NamedTuple):
    """What was found, oldest first, and what could not be looked at."""

    records: list[TrafficRecord]
    notes: list[str]


def is_own(record: TrafficRecord) -> bool:
    """Whether a record is of what the caller got, not of another release's try beside it."""
    return record.role != "shadow" and record.code not in {"invalid", "error"}


def choose(settings: Settings, wanted: Wanted) -> Chosen:
    """The newest wanted records; the object store is asked only for what this disk does not have.

    Raises UserError when there is none.
    """
    limit = 1 if wanted.request_id is not None else wanted.limit
    found: list[TrafficRecord] = []
    notes: list[str] = []
    local = set()
    for path in reversed(segments(settings.paths.traffic)):
        oldest = min((record.at for record in found), default=0.0) if len(found) >= limit else wanted.since
        try:
            records = read_segment(path) if may_hold(path, oldest) else []
        except FileNotFoundError:  # shipped and removed meanwhile
            continue
        local.add(path.stem)
        found = _newest(found + [record for record in records if wanted.has(record)], limit)
    if len(found) < limit and endpoints(settings).s3 is not None:
        try:
            for record in shipped_records(object_store(settings), wanted.since, wanted.until, but=local):
                if wanted.has(record):
                    found.append(record)
                if len(found) >= limit:
                    break
        except (ObjectStoreError, RowsError, ShippingError) as error:
            notes.append(f"shipped records were not looked at: {error}")
    if not found:
        said = f"; {notes[0]}" if notes else ""
        raise UserError(f"the traffic record holds no such request{said}", exit_code=3)
    return Chosen(sorted(_newest(found, limit), key=lambda record: record.at), notes)


def _newest(records: list[TrafficRecord], limit: int) -> list[TrafficRecord]:
    return heapq.nlargest(limit, records, key=lambda record: record.at)
