"""Callers that leave before they are answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.config import SubnetSpec
from tests.faults.tools import connect, double, metric, still_serves
from tests.serving.callers import ALICE, BOB
from tests.serving.fake_triton import FakeTritonServer
from tests.serving.processes import gateway, raw, until

pytestmark = pytest.mark.slow
PATIENT = [SubnetSpec("tests.serving.tiny:patient")]


def test_row_12_whoever_leaves_frees_its_place_at_once_or_when_the_model_is_done_and_nothing_crashes(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address, workers=1, in_flight=2, waiting=8, subnets=PATIENT) as running:

        def level(name: str) -> float:
            return metric(running, name)

        triton.hold.clear()
        callers = [connect(running.config.port) for _ in range(6)]
        asked, waiting = callers[:2], callers[2:]
        for caller in asked:
            caller.sendall(raw(double(timeout="50")))
        until(lambda: level("headframe_in_flight") == 2)
        for number, caller in enumerate(waiting):
            caller.sendall(raw(double(sender=(ALICE, BOB)[number % 2], timeout="50")))
        until(lambda: level("headframe_waiting") == 4)
        for caller in waiting:
            caller.close()
        until(lambda: level("headframe_waiting") == 0)
        for caller in asked:
            caller.close()
        until(lambda: metric(running, "headframe_requests_total", outcome="hung_up") == 4)
        assert level("headframe_in_flight") == 2  # the model goes on with these
        assert len(triton.asked) == 2  # whoever waited never reached it
        triton.hold.set()
        until(lambda: level("headframe_in_flight") == 0)
        assert still_serves(running)
        assert running.get("/workers").json()["restarts"] == 0
        until(lambda: metric(running, "headframe_requests_total", outcome="hung_up") == 6)


def test_row_12_the_place_of_whoever_leaves_a_model_that_hangs_is_free_when_its_time_is_over(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address, workers=1, in_flight=1) as running:
        triton.hold.clear()
        with connect(running.config.port) as caller:
            caller.sendall(raw(double(timeout="5")))
            until(lambda: triton.asked)
        until(lambda: metric(running, "headframe_requests_total", outcome="hung_up") == 1)
        until(lambda: metric(running, "headframe_in_flight") == 0)
        triton.hold.set()
        until(lambda: still_serves(running))


def test_row_12_callers_that_never_wait_cannot_fill_the_models_queue(triton: FakeTritonServer, tmp_path: Path) -> None:
    with gateway(tmp_path, triton.address, workers=1, in_flight=3, waiting=8, subnets=PATIENT) as running:
        triton.hold.clear()
        for number in range(30):
            with connect(running.config.port) as caller:
                caller.sendall(raw(double(timeout="50")))
                until(lambda sent=number + 1: metric(running, "headframe_in_flight") >= min(sent, 3))  # type: ignore[misc]
        until(lambda: metric(running, "headframe_requests_total", outcome="hung_up") == 27)
        assert len(triton.asked) == 3
        triton.hold.set()
        assert still_serves(running)


def test_row_12_a_model_slower_than_its_callers_is_not_asked_again_for_those_who_left(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address) as running:
        triton.hold.clear()
        for number in range(20):
            with connect(running.config.port) as caller:
                caller.sendall(raw(double()))
                if not number:
                    until(lambda: triton.asked)  # the others may be gone before anybody hears them
        triton.hold.set()
        until(lambda: metric(running, "headframe_requests_total", outcome="hung_up") == 20)
        assert still_serves(running)
        assert len(triton.asked) <= 21
