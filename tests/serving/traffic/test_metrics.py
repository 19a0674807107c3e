"""What /metrics says of the traffic record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from serving.traffic.metrics import SHIPPING, Shipping, TrafficMetrics, read_shipping
from serving.traffic.retention import Keeper
from tests.serving.records import record, write_segment

NOW = 1_000_000_000.0


class Log:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, event: str, **facts: Any) -> None:
        self.errors.append(event)


def metrics(folder: Path, cap: int) -> tuple[TrafficMetrics, CollectorRegistry, Log]:
    log, registry = Log(), CollectorRegistry()
    made = TrafficMetrics(Keeper(folder, cap_bytes=cap, keep_s=1e9, now=lambda: NOW), log)
    registry.register(made)
    return made, registry, log


def test_size_lag_and_losses_are_told(tmp_path: Path) -> None:
    path = write_segment(tmp_path, "0000000000001-1-000001", [record(n, request=b"x" * 500) for n in range(3)])
    os.utime(path, (NOW - 120, NOW - 120))
    (tmp_path / SHIPPING).write_bytes(msgspec.json.encode(Shipping(at=5.0, failures=4, error="down")))
    made, registry, log = metrics(tmp_path, cap=0)
    made.look()
    value = registry.get_sample_value
    assert value("headframe_traffic_bytes") == value("headframe_traffic_over_bytes") == path.stat().st_size
    assert value("headframe_traffic_bodies_dropped_total") == 3
    assert value("headframe_traffic_unshipped") == 1
    assert value("headframe_traffic_shipping_lag_seconds") == 120
    assert value("headframe_traffic_shipping_failures_total") == 4
    assert log.errors == ["the traffic record is above its cap and has no more bodies to drop"]
    made.look()
    assert len(log.errors) == 1  # told once


@pytest.mark.parametrize("fault", [OSError(30, "Read-only file system"), ValueError("no such number"), MemoryError()])
def test_whatever_goes_wrong_in_a_look_is_counted_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    made, registry, log = metrics(tmp_path, cap=0)

    def fails() -> None:
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(made._keeper, "hold", fails)
        made.look()
    made.look()
    assert registry.get_sample_value("headframe_traffic_hold_failures_total") == 1
    assert log.errors == ["the traffic record could not be held to its size"]


def test_shipping_that_never_ran_is_all_zero(tmp_path: Path) -> None:
    assert read_shipping(tmp_path) == Shipping()
    (tmp_path / SHIPPING).write_text("garbled")
    assert read_shipping(tmp_path) == Shipping()
    (tmp_path / SHIPPING).write_bytes(b'{"error":"\xff"}')
    assert read_shipping(tmp_path) == Shipping()
