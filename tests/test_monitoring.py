"""The table of docs/monitoring.md and what /metrics tells are the same."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric

from serving.state import ClockSkew, write_state
from serving.traffic.metrics import TrafficMetrics
from serving.traffic.records import Role
from serving.traffic.retention import Keeper
from serving.watch.clocks import OwnClock
from serving.watch.metrics import Metrics
from serving.watch.private import ParentMetrics
from serving.watch.readiness import Readiness, State
from serving.wire.claim import DialectName
from tests.serving.processes import config_of

DOC = Path(__file__).parent.parent / "docs" / "monitoring.md"
ROW = re.compile(r"^\| `(headframe_\w+)` \| ([\w, ]*)\|", re.MULTILINE)


def told(home: Path) -> dict[str, set[str]]:
    """Every metric as Prometheus sees it, with its labels."""
    registry = CollectorRegistry()
    Metrics(registry)
    config = config_of(home, "127.0.0.1:1", skew=str(home / "clock-skew.json"))
    write_state(home / "clock-skew.json", ClockSkew(time.time(), 0.1, 3, 3))
    families: list[Metric] = list(ParentMetrics(Readiness(config, State())).collect())
    families += OwnClock(config).collect()
    families += TrafficMetrics(Keeper(home / "traffic", cap_bytes=1, keep_s=1.0, ship=True), None).collect()
    found = {family.name + ("_total" if isinstance(family, CounterMetricFamily) else ""): family for family in families}
    labels = {name: set(getattr(family, "_labelnames", ())) for name, family in found.items()}
    for collector in registry._collector_to_names:
        (family,) = collector.collect()
        name = family.name + ("_total" if family.type == "counter" else "")
        labels[name] = set(collector._labelnames)  # type: ignore[attr-defined]
    return labels


def test_every_metric_is_documented_with_its_labels(tmp_path: Path) -> None:
    documented = {name: set(re.findall(r"\w+", labels)) for name, labels in ROW.findall(DOC.read_text())}
    assert documented == told(tmp_path)


def test_help_texts_name_the_values_of_every_label(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    for collector in registry._collector_to_names:
        (family,) = collector.collect()
        for label in collector._labelnames:  # type: ignore[attr-defined]
            assert f"{label}: " in family.documentation, family.name
    for family in ParentMetrics(Readiness(config_of(tmp_path, "127.0.0.1:1"), State())).collect():
        for label in getattr(family, "_labelnames", ()):
            assert f"{label}: " in family.documentation, family.name


@pytest.mark.parametrize(
    ("metric", "label", "values"),
    [
        ("headframe_release_requests", "role", set(get_args(Role)) - {"none"}),
        ("headframe_requests", "dialect", {*get_args(DialectName), "none"}),
    ],
)
def test_help_texts_name_every_value(metric: str, label: str, values: set[str]) -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    (family,) = [family for family in registry.collect() if family.name == metric]
    listed = re.search(rf"\b{label}: ([\w, ]+)\.", family.documentation)
    assert listed is not None
    assert set(listed[1].split(", ")) == values
