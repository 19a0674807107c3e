"""More work than there is time for, and models that are slow, hung or gone."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serving.config import SubnetSpec
from serving.state import RouteTable, SlotRoute, write_state
from serving.subnets.base import Tensors
from serving.types import ReleaseId
from tests.faults.tools import Traffic, double, metric, refused, triton_process
from tests.serving.callers import ALICE, BOB, CHARLIE, legacy
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.gateways import write_neurons
from tests.serving.processes import Running, gateway, until
from tests.serving.tiny import OTHER, SLOT

pytestmark = pytest.mark.slow


def test_row_15_under_overload_the_least_stake_is_refused_first_and_at_once_and_the_rest_is_answered(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address, workers=1, in_flight=1, waiting=2) as running, ThreadPoolExecutor(8) as pool:
        triton.hold.clear()

        def send(sender: object) -> Future[httpx.Response]:
            return pool.submit(running.ask, double(sender=sender, timeout="20"))

        def waiting(count: int) -> None:
            until(lambda: metric(running, "headframe_waiting") == count)

        running_now = send(CHARLIE)
        until(lambda: metric(running, "headframe_in_flight") == 1)
        least, middle = send(CHARLIE), None
        waiting(1)
        middle = send(BOB)
        waiting(2)
        highest = send(ALICE)  # the queue is full: the least of all must go
        turned_away = least.result(timeout=60)
        assert turned_away.status_code == 503
        assert int(turned_away.headers["retry-after"]) >= 1
        assert (
            running.ask(double(sender=CHARLIE, timeout="20")).status_code == 503
        )  # and so must a newcomer of little stake
        triton.hold.set()
        answered = [future.result(timeout=60).status_code for future in (running_now, middle, highest)]
        assert answered == [200, 200, 200]
        until(lambda: refused(running, "queue_full") == 2)


def test_row_15_a_dead_model_worker_is_told_as_503_with_retry_after_and_a_stale_neuron_table_serves_on(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address, neurons_max_age=0.1) as running:
        until(lambda: running.get("/readyz").json()["files"]["neurons"]["fresh"] is False)
        assert running.ask(double()).status_code == 200
        triton.stop()
        reply = running.ask(double(timeout="1.0"))
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
        triton.start()
        assert running.ask(double()).status_code == 200


def test_fault_29_a_timeout_below_the_models_time_is_refused_before_the_model_is_asked_again(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    def slow(tensors: Tensors) -> Tensors:
        time.sleep(0.6)
        return doubled(tensors)

    triton.models["tiny-a"] = slow
    with gateway(tmp_path, triton.address, workers=1) as running:

        def refused_at_once() -> bool:
            for _ in range(4):  # the gateway learns how long an answer takes, and soon forgets
                assert running.ask(double(timeout="20")).status_code == 200
            asked = len(triton.asked)
            reply = running.ask(double(timeout="0.3"))
            assert reply.status_code == 503
            assert int(reply.headers["retry-after"]) >= 1
            in_time = float(reply.headers["bt_header_axon_process_time"]) < 0.3
            return in_time and len(triton.asked) == asked

        until(refused_at_once)  # a machine that stands still for so long keeps no deadline
        assert running.ask(double(timeout="20")).status_code == 200


def test_fault_1_requests_in_a_killed_triton_are_answered_before_their_deadline_and_served_again_after(
    tmp_path: Path,
) -> None:
    with triton_process() as triton, gateway(tmp_path, triton.address) as running:
        traffic = Traffic(running, timeout="2.0")
        traffic.more()
        triton.kill()
        until(lambda: 503 in traffic.statuses)

        def refused_in_time() -> bool:
            reply = running.ask(double(timeout="5.0"))
            assert reply.status_code == 503
            return float(reply.headers["bt_header_axon_process_time"]) < 5.0

        until(refused_in_time)  # a machine that stands still for half a second keeps no deadline
        triton.start()
        until(lambda: set(traffic.statuses[-100:]) == {200})  # each worker finds out for itself
        assert set(traffic.stop()) == {200, 503}


def test_fault_2_a_stopped_triton_opens_a_breaker_and_nothing_piles_up(tmp_path: Path) -> None:
    with triton_process() as triton, gateway(tmp_path, triton.address, in_flight=4, waiting=8) as running:
        traffic = Traffic(running, callers=8, timeout="2.0")
        traffic.more()
        before = _threads(running)
        triton.send(signal.SIGSTOP)
        until(lambda: refused(running, "breaker_open") > 20, 90.0)  # those of SDK 11 wait for 18 s first
        traffic.more(50)
        assert _threads(running) <= before + 4
        triton.send(signal.SIGCONT)
        until(lambda: running.ask(double()).status_code == 200)
        until(lambda: set(traffic.statuses[-30:]) == {200})
        assert set(traffic.stop()) == {200, 503}
        assert running.get("/workers").json()["restarts"] == 0


def test_fault_2_newcomers_to_a_stopped_triton_are_refused_long_before_anybodys_deadline_and_those_who_wait_may_wait(
    tmp_path: Path,
) -> None:
    with (
        triton_process() as triton, gateway(tmp_path, triton.address, workers=1) as running,
        ThreadPoolExecutor(1) as pool,
    ):  # fmt: skip
        assert running.ask(double()).status_code == 200
        triton.send(signal.SIGSTOP)
        waits = pool.submit(running.ask, double(timeout="20"))
        until(lambda: running.ask(double(timeout="0.5")).status_code == 503 and refused(running, "breaker_open"))
        reply = running.ask(double(timeout="20"))
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
        assert not waits.done()
        until(lambda: metric(running, "headframe_breakers_open", what="server") == 1)
        triton.send(signal.SIGCONT)
        assert waits.result(timeout=60).status_code == 200
        assert running.ask(double()).status_code == 200


def test_a_model_that_is_slow_for_all_in_a_server_that_lives_is_waited_for(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address, workers=1) as running, ThreadPoolExecutor(2) as pool:
        triton.hold.clear()
        first = pool.submit(running.ask, double(timeout="20"))  # how long an answer takes was never seen
        until(lambda: triton.questions >= 4)
        second = pool.submit(running.ask, double(timeout="20"))
        until(lambda: len(triton.asked) == 2)
        triton.hold.set()
        assert [each.result(timeout=60).status_code for each in (first, second)] == [200, 200]
        assert refused(running, "breaker_open") == 0


def test_a_release_that_hangs_under_load_costs_another_slots_callers_nothing(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    let_go = threading.Event()

    def hangs(tensors: Tensors) -> Tensors:
        let_go.wait()
        return doubled(tensors)

    triton.models = {"tiny-a": hangs, "other-a": doubled}
    releases = {SLOT: SlotRoute(stable=ReleaseId("tiny-a")), OTHER: SlotRoute(stable=ReleaseId("other-a"))}
    write_neurons(tmp_path)
    write_state(tmp_path / "routes.json", RouteTable(1, time.time(), releases))
    options: dict[str, Any] = {"subnets": [SubnetSpec("tests.serving.tiny:two")], "slots": [SLOT, OTHER]}
    with (
        gateway(tmp_path, triton.address, workers=1, in_flight=8, waiting=4, **options) as running,
        ThreadPoolExecutor(16) as hung, ThreadPoolExecutor(6) as pool,
    ):  # fmt: skip
        try:
            load = [hung.submit(running.ask, double(sender=ALICE, timeout="50")) for _ in range(16)]
            until(lambda: metric(running, "headframe_in_flight") == 6)  # all but the two that stay the other slot's own
            until(lambda: metric(running, "headframe_waiting") == 4)
            until(lambda: refused(running, "queue_full") == 6)

            def ask_other(number: int) -> int:
                fields = {"x": [float(number)]}
                return running.ask(legacy("Other", fields, ("x",), sender=CHARLIE, timeout="50")).status_code

            assert set(pool.map(ask_other, range(30))) == {200}
            assert sum(not future.done() for future in load) == 10  # they hang yet
        finally:
            let_go.set()
        assert sorted(future.result().status_code for future in load) == [200] * 10 + [503] * 6


def _threads(running: Running) -> int:
    return sum(psutil.Process(pid).num_threads() for pid in running.pids())
