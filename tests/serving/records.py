"""Records and segments for tests of the traffic record."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from serving.traffic.records import TensorBytes, TrafficRecord
from serving.traffic.segments import Segment


def record(number: int, **facts: Any) -> TrafficRecord:
    """A small answered request; `number` is in its id, its time and its body."""
    plain = TrafficRecord(
        request_id=f"id-{number}", at=1000.0 + number, subnet_at=0.0, dialect="legacy", caller="5G", slot="s",
        synapse="S", role="stable", release="r", status=200, code="ok", request=b"inputs %d" % number,
        tensors={"X": TensorBytes("FP32", [1, 2], bytes(8))}, answer_digest="d" * 64,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **facts)


def write_segment(folder: Path, name: str, records: Iterable[TrafficRecord]) -> Path:
    """A closed segment of these records."""
    segment = Segment(folder / f"{name}.seg")
    for each in records:
        segment.append(msgspec.msgpack.encode(each))
    segment.close()
    return segment.path


def handles(folder: Path) -> int:
    """How many files below `folder` this process has open; removed ones count too."""
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # another thread's, closed meanwhile
            found.append(os.readlink(handle))
    return sum(name.startswith(f"{folder}/") for name in found)
