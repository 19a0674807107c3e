"""Callers that leave before they are answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.tools import connect, double, metric, still_serves
from tests.serving.callers import ALICE, BOB
from tests.serving.fake_triton import FakeTritonServer
from tests.serving.processes import gateway, raw, until

pytestmark = pytest.mark.slow


def test_row_12_whoever_leaves_while_the_model_runs_frees_its_place_and_nothing_crashes(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address, workers=1, in_flight=2, waiting=8) as running:

        def level(name: str) -> float:
            return metric(running, name)

        triton.hold.clear()
        callers = [connect(running.config.port) for _ in range(6)]
        asked, waiting = callers[:2], callers[2:]
        for caller in asked:
            caller.sendall(raw(double(timeout="20")))
        until(lambda: level("headframe_in_flight") == 2)
        for number, caller in enumerate(waiting):
            caller.sendall(raw(double(sender=(ALICE, BOB)[number % 2], timeout="20")))
        until(lambda: level("headframe_waiting") == 4)
        for caller in waiting:
            caller.close()
        until(lambda: level("headframe_waiting") == 0)
        for caller in asked:
            caller.close()
        until(lambda: level("headframe_in_flight") == 0)
        assert len(triton.asked) == 2  # whoever waited never reached the model
        triton.hold.set()
        assert still_serves(running)
        assert running.get("/workers").json()["restarts"] == 0
        until(lambda: metric(running, "headframe_requests_total", outcome="hung_up") == 6)


def test_row_12_a_model_slower_than_its_callers_is_not_asked_again_for_those_who_left(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address) as running:
        triton.hold.clear()
        for _ in range(20):
            with connect(running.config.port) as caller:
                caller.sendall(raw(double()))
        until(lambda: metric(running, "headframe_requests_total", outcome="hung_up") == 20)
        triton.hold.set()
        assert still_serves(running)
        assert len(triton.asked) <= 21
