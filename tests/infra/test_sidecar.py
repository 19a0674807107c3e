from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from infra.settings import Settings
from infra.sidecar import Duty, serve
from infra.stack.probes import Duty as Record
from infra.stack.probes import SidecarState, read_sidecar, sidecar
from serving.errors import UserError


def until(true: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


def test_a_failing_duty_is_told_and_mended() -> None:
    problems: list[Exception] = [UserError("the price store is down"), ValueError("odd")]

    def run() -> None:
        if problems:
            raise problems.pop(0)

    duty = Duty("prices", run, lambda: 1.0, longest_pause=3.0)
    duty.once()
    assert (duty.record.error, duty.record.failures, duty.record.last_good) == ("the price store is down", 1, None)
    duty.once()
    assert (duty.record.error, duty.record.failures) == ("ValueError: odd", 2)
    duty.once()
    assert (duty.record.error, duty.record.failures, duty.record.runs) == (None, 0, 3)
    assert duty.record.last_good is not None


@pytest.mark.parametrize(("failures", "pause"), [(0, 1.0), (1, 2.0), (2, 4.0), (3, 5.0), (40, 5.0)])
def test_the_pause_grows_with_failures_up_to_its_limit(failures: int, pause: float) -> None:
    duty = Duty("routes", lambda: None, lambda: 1.0, longest_pause=5.0)
    duty.record.failures = failures
    assert duty.pause() == pause


def test_a_slow_duty_is_not_hurried_by_failing() -> None:
    duty = Duty("neurons", lambda: None, lambda: 300.0, longest_pause=5.0)
    duty.record.failures = 2
    assert duty.pause() == 300.0


@pytest.mark.slow
def test_duties_that_fail_or_hang_stop_no_other(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    stop, hang = threading.Event(), threading.Event()
    runs: list[float] = []

    def hangs() -> None:
        hang.wait()

    def fail() -> None:
        raise OSError("no disk")

    duties = [
        Duty("hangs", hangs, lambda: 0.0),
        Duty("fails", fail, lambda: 0.0, longest_pause=0.0),
        Duty("works", lambda: runs.append(0.0), lambda: 0.0),
    ]
    thread = threading.Thread(target=serve, args=(settings, duties, stop))
    thread.start()
    try:
        until(lambda: len(runs) >= 3)
        until(
            lambda: (
                (state := read_sidecar(settings.paths)) is not None
                and state.duties["fails"].failures >= 2
                and state.duties["works"].runs >= 1
            )
        )
        state = read_sidecar(settings.paths)
        assert state is not None
        assert state.duties["fails"].error == "OSError: no disk"
        assert state.duties["hangs"].runs == 0
        for file in (settings.paths.routes, settings.paths.neurons, settings.paths.prices):
            file.parent.mkdir(exist_ok=True)
            file.write_text("{}")
        assert sidecar(settings) == "has not looked at hangs yet"
        hang.set()
        until(lambda: sidecar(settings) is None)
    finally:
        hang.set()
        stop.set()
        thread.join()


@pytest.mark.slow
def test_a_change_makes_a_duty_due_at_once() -> None:
    seen = ["a"]
    runs: list[str] = []
    duty = Duty("prices", lambda: runs.append(seen[0]), lambda: 3600.0, changed=lambda: seen[0])
    stop = threading.Event()
    thread = threading.Thread(target=duty.loop, args=(stop,))
    thread.start()
    try:
        until(lambda: runs == ["a"])
        seen[0] = "b"
        until(lambda: runs == ["a", "b"])
    finally:
        stop.set()
        thread.join()


def test_a_silent_sidecar_is_not_ready(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert sidecar(settings) == "has said nothing yet"
    settings.paths.run.mkdir()
    old = SidecarState(written_at=1000.0, pid=os.getpid(), duties={})
    (settings.paths.run / "sidecar.json").write_bytes(msgspec.json.encode(old))
    assert str(sidecar(settings)).startswith("has said nothing for")
    (settings.paths.run / "sidecar.json").write_text('{"written_at": 1000, ')
    assert sidecar(settings) == "has said nothing yet"


def test_a_missing_file_is_named_with_the_reason(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    settings.paths.run.mkdir()
    state = SidecarState(time.time(), os.getpid(), {"routes": Record(failures=1, error="no ledger")})
    (settings.paths.run / "sidecar.json").write_bytes(msgspec.json.encode(state))
    assert sidecar(settings) == "has not written routes.json yet: routes: no ledger"
