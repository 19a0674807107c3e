"""The traffic record in numbers: its size and what went, for /metrics; looked at every half minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.traffic.retention import Keeper, Kept

CHECK_S = 30.0
SHIPPING = "shipping.json"


class Shipping(msgspec.Struct):
    """``shipping.json`` in the record's folder: how shipping fares, since this home's first start."""

    at: float = 0.0
    """When a run last left nothing to ship, unix s."""
    failures: int = 0
    """Runs that stopped at a fault."""
    error: str | None = None
    """What the last run stopped at; None after a good one."""


def read_shipping(folder: Path) -> Shipping:
    """What the sidecar said last; all zero when it never did."""
    try:
        return msgspec.json.decode((folder / SHIPPING).read_bytes(), type=Shipping)
    except (OSError, ValueError):
        return Shipping()


class TrafficMetrics(Collector):
    """Holds the record to its bounds from a thread, and tells how it fares as a Prometheus collector."""

    def __init__(self, keeper: Keeper, log: Any) -> None:
        self.kept = Kept()
        self.failures = 0
        self._keeper, self._log = keeper, log

    def start(self) -> None:
        """Look now and every half minute, for as long as the process lives."""
        threading.Thread(target=self._run, name="traffic", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.look()
            time.sleep(CHECK_S)

    def look(self) -> None:
        """One look; what the disk does not allow is counted, logged, and tried again at the next; so is all else."""
        try:
            kept = self._keeper.hold()
        except Exception as error:  # the thread goes on, or the disk fills up
            self.failures += 1
            self._log.error("the traffic record could not be held to its size", error=str(error))
            return
        if kept.over and not self.kept.over:
            self._log.error("the traffic record is above its cap and has no more bodies to drop", over_bytes=kept.over)
        self.kept = kept

    def collect(self) -> Iterable[Metric]:
        """The last look, and the sidecar's own word on shipping."""
        kept, shipping = self.kept, read_shipping(self._keeper.folder)
        yield GaugeMetricFamily("headframe_traffic_bytes", "Size of the traffic record on this disk.", value=kept.bytes)
        yield GaugeMetricFamily(
            "headframe_traffic_over_bytes", "Bytes above the cap that rows and live segments take.", value=kept.over
        )
        yield CounterMetricFamily(
            "headframe_traffic_bodies_dropped",
            "Records that lost request and tensors to the disk cap before they were shipped; their digests stay.",
            value=kept.bodies_dropped,
        )
        yield CounterMetricFamily(
            "headframe_traffic_rows_expired",
            "Records removed past their time where shipping is off.",
            value=kept.rows_expired,
        )
        yield CounterMetricFamily(
            "headframe_traffic_hold_failures", "Looks at the record that the disk cut short.", value=self.failures
        )
        yield GaugeMetricFamily("headframe_traffic_unshipped", "Closed segments not shipped.", value=kept.unshipped)
        yield GaugeMetricFamily(
            "headframe_traffic_shipping_lag_seconds", "Age of the oldest closed segment not shipped.", value=kept.lag_s
        )
        yield GaugeMetricFamily(
            "headframe_traffic_shipped_rows", "Records shipped in the last 30 days.", value=kept.shipped_rows
        )
        yield CounterMetricFamily(
            "headframe_traffic_shipping_failures", "Shipping runs that stopped at a fault.", value=shipping.failures
        )
        yield GaugeMetricFamily(
            "headframe_traffic_damaged_bytes",
            "Bytes of segments shipped in the last 30 days that lie behind a torn or damaged frame.",
            value=kept.damaged_bytes,
        )
