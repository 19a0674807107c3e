"""The log of events."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import structlog

from serving.watch import logs


class Full(io.BytesIO):
    """A disk without room, or a terminal that is closed."""

    def write(self, piece: object) -> int:
        raise OSError("no room")

    def flush(self) -> None:
        raise OSError("no room")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What is configured here is this test's only."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_log_that_cannot_be_written_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", SimpleNamespace(buffer=Full()))
    logs.configure("gateway").error("worker died", status=-9)


def test_an_event_is_a_line_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    monkeypatch.setattr("sys.stderr", SimpleNamespace(buffer=file))
    logs.configure("gateway", pid=7).error("worker died", status=-9)
    line = json.loads(file.getvalue())
    assert line.pop("timestamp")
    assert line == {"component": "gateway", "pid": 7, "level": "error", "event": "worker died", "status": -9}
