"""Traffic records as the gateway writes them, with made-up answers."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from serving.traffic.records import Role, TrafficRecord
from serving.traffic.writer import TrafficWriter


def answer(
    release: str,
    role: Role,
    *,
    slot: str = "synth-high",
    code: str = "ok",
    ms: float = 20.0,
    at: float | None = None,
    deadline_s: float = 60.0,
) -> TrafficRecord:
    """One release's answer to one request."""
    return TrafficRecord(
        request_id=uuid.uuid4().hex, at=time.time() if at is None else at, subnet_at=0.0, dialect="btauth", caller="5F",
        slot=slot, synapse="Simulation", role=role, release=release, status=200 if code == "ok" else 500, code=code,
        deadline_s=deadline_s, timings_ms={"triton": ms},
    )  # fmt: skip


def write(folder: Path, *records: TrafficRecord) -> None:
    """Append records to the traffic record."""
    writer = TrafficWriter(folder)
    for record in records:
        assert writer.append(record)
    writer.close()
