"""The log of requests."""

from __future__ import annotations

import io
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from serving.watch.request_log import PIECE, RequestLog

FACTS: dict[str, Any] = {
    "request_id": "life-1", "dialect": "legacy", "route": "Echo", "code": "ok", "caller": "5Grw", "slot": "echo",
    "role": "stable", "release": "echo-1", "seconds": 0.0012345,
}  # fmt: skip


def test_a_line_has_the_shape_of_every_other_log_line() -> None:
    file = io.BytesIO()
    log = RequestLog("worker", file)
    log.add(**FACTS)
    assert file.getvalue() == b""
    log.flush()
    line = json.loads(file.getvalue())
    at = datetime.fromisoformat(line.pop("timestamp"))
    assert abs(at - datetime.now(UTC)) < timedelta(seconds=60)
    assert line == {
        "component": "worker", "pid": os.getpid(), "request_id": "life-1", "dialect": "legacy", "route": "Echo",
        "code": "ok", "caller": "5Grw", "slot": "echo", "role": "stable", "release": "echo-1", "ms": 1.234,
        "event": "request", "level": "info",
    }  # fmt: skip
    log.flush()
    assert file.getvalue().count(b"\n") == 1


class Pieces(io.BytesIO):
    """Remembers the size of each write."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def write(self, data: Any) -> int:
        self.sizes.append(len(data))
        return super().write(data)


def test_lines_are_written_in_pieces_that_a_pipe_keeps_together_and_none_is_lost() -> None:
    file = Pieces()
    log = RequestLog("worker", file)
    for number in range(100):
        log.add(**{**FACTS, "request_id": str(number)})
    log.flush()
    assert [json.loads(line)["request_id"] for line in file.getvalue().splitlines()] == [str(n) for n in range(100)]
    assert max(file.sizes) <= PIECE
    assert len(file.sizes) < 20


def test_a_log_that_nobody_reads_fails_no_request() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as file:
        log = RequestLog("worker", file)
        for _ in range(100):
            log.add(**FACTS)
        log.flush()
