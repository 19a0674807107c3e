"""The skew of our clock as it was measured, and of the callers' as it shows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from serving.state import ClockSkew, write_state
from serving.watch.clocks import MOST_CALLERS, WINDOW_S, CallerClocks, OwnClock
from serving.wire.keys import PublicKey
from tests.serving.processes import config_of


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("serving.watch.clocks.time.monotonic", lambda: now[0])
    return now


def test_one_caller_with_a_bad_clock_moves_nothing(at: list[float]) -> None:
    callers = CallerClocks()
    assert callers.median() is None
    for _ in range(1000):
        callers.add(key(0), 900.0)
    for number in (1, 2):
        callers.add(key(number), 0.05)
    assert callers.median() == 0.05
    at[0] += WINDOW_S + 1
    assert callers.median() == 0.05


def test_a_minute_begins_anew_and_one_without_requests_keeps_the_last(at: list[float]) -> None:
    callers = CallerClocks()
    callers.add(key(0), 1.0)
    at[0] += WINDOW_S + 1
    assert callers.median() == 1.0
    callers.add(key(0), 3.0)
    assert callers.median() == 1.0  # of the last whole minute
    at[0] += WINDOW_S + 1
    assert callers.median() == 3.0
    at[0] += WINDOW_S + 1
    assert callers.median() == 3.0


def test_the_number_of_callers_is_bounded(at: list[float]) -> None:
    callers = CallerClocks()
    for number in range(3 * MOST_CALLERS):
        callers.add(key(number), 0.0 if number < MOST_CALLERS else 99.0)
    assert callers.median() == 0.0
    callers.add(key(0), 5.0)  # who is counted already still is
    assert len(callers._ages) == MOST_CALLERS


def test_what_time_servers_said_is_exported(tmp_path: Path) -> None:
    path = tmp_path / "clock-skew.json"
    clock = OwnClock(config_of(tmp_path, "127.0.0.1:1", skew=str(path)))
    assert (clock.report(), list(clock.collect())) == (None, [])
    write_state(path, ClockSkew(time.time() - 30, -3.5, 2, 3))
    found = clock.report()
    assert found is not None
    assert (found["skew_s"], found["good"], found["limit_s"], found["servers"]) == (-3.5, False, 2.0, 2)
    assert found["age_s"] == pytest.approx(30, abs=5)
    (metric,) = clock.collect()
    assert (metric.name, [sample.value for sample in metric.samples]) == ("headframe_clock_skew_seconds", [-3.5])
    write_state(path, ClockSkew(time.time(), None, 0, 3))
    found = clock.report()
    assert found is not None
    assert (found["skew_s"], found["good"], list(clock.collect())) == (None, False, [])


def test_where_nobody_measures_nothing_is_said(tmp_path: Path) -> None:
    clock = OwnClock(config_of(tmp_path, "127.0.0.1:1"))
    assert (clock.report(), list(clock.collect())) == (None, [])
