"""The books of a soak: every request sent, every answer, every record, and the release that was routed at the time."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from infra.ledger import open_ledger
from infra.settings import Settings
from serving.traffic.records import TrafficRecord
from serving.traffic.writer import read_records
from serving.twin import PromptRow

SENT_ROLES = frozenset({"stable", "canary", "fallback", "pinned"})
LEEWAY_S = 1.0
"""A request that came in under one route table may be answered under it shortly after."""


def balance(settings: Settings, rows: Sequence[PromptRow], since: float) -> dict[str, Any]:
    """Counts that must agree, and what does not: requests, good answers, records, and releases by time."""
    records = [r for r in read_records(settings.paths.traffic, since=since) if r.role in SENT_ROLES and r.status == 200]
    twice = [one for one, count in Counter(record.request_id for record in records).items() if count > 1]
    good = sum(row.error is None for row in rows)
    return {
        "requests": len(rows),
        "answered": good,
        "valid": sum(row.verdict == "CORRECT" for row in rows),
        "records": len(records),
        "records_lost": good - len(records),
        "records_twice": len(twice),
        "by_dialect": dict(Counter(row.dialect for row in rows)),
        "by_release": dict(Counter(str(record.release) for record in records)),
        "by_role": dict(Counter(record.role for record in records)),
        "misrouted": sum(not routed for routed in _routed(settings, records)),
        "faults": dict(Counter(row.error or row.verdict for row in rows if row.verdict != "CORRECT")),
    }


def _routed(settings: Settings, records: Sequence[TrafficRecord]) -> list[bool]:
    """Whether each record's release was one that the ledger routed to, in its role, at about that time."""
    with closing(open_ledger(settings)) as ledger:
        changes = {slot: ledger.transitions(slot) for slot in settings.slots}
    found = []
    for record in records:
        own = changes.get(record.slot, [])
        first = bisect_right(own, record.at - LEEWAY_S, key=lambda change: change.at)
        last = bisect_right(own, record.at + LEEWAY_S, key=lambda change: change.at)
        about = own[max(0, first - 1) : last]
        named = {change.stable for change in about} | {change.release for change in about}
        found.append(record.release in named)
    return found
