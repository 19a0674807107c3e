"""What a kill costs: the requests in flight in the killed part, and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.state import PriceBook, write_state
from serving.traffic.writer import read_records
from tests.faults.tools import Traffic, double
from tests.serving.callers import btauth, legacy
from tests.serving.fake_triton import FakeTritonServer, broken, doubled
from tests.serving.gateways import write_routes
from tests.serving.processes import gateway, stop_still, until

pytestmark = pytest.mark.slow


@pytest.fixture
def triton() -> Iterator[FakeTritonServer]:
    server = FakeTritonServer(tiny_a=doubled, tiny_b=doubled)
    yield server
    server.hold.set()
    server.stop()


def test_fault_killed_worker_costs_only_what_it_had_in_flight(triton: FakeTritonServer, tmp_path: Path) -> None:
    with gateway(tmp_path, triton.address) as running:
        traffic = Traffic(running)
        for _ in range(3):
            traffic.more()
            victim = running.pids()[0]
            os.kill(victim, signal.SIGKILL)
            until(lambda gone=victim: gone not in running.pids())  # type: ignore[misc]
            running.ready()
        traffic.more()
        statuses = traffic.stop()
        assert set(statuses) <= {200, 0}
        assert statuses.count(0) <= 3 * 4  # at most every caller's one request, each time
        answered = statuses.count(200)
        records = list(read_records(tmp_path / "traffic"))
        assert all(record.code == "ok" for record in records)
        assert answered <= len(records) <= len(statuses)
        assert running.get("/workers").json()["restarts"] == 3


def test_fault_20_a_killed_worker_takes_no_counter_back(triton: FakeTritonServer, tmp_path: Path) -> None:
    def counted() -> dict[tuple[str, ...], float]:
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(running.get("/metrics").text)
            for sample in family.samples
            if family.type == "counter" and not sample.name.endswith("_created")
        }

    with gateway(tmp_path, triton.address) as running:
        traffic, seen = Traffic(running), counted()
        for _ in range(3):
            traffic.more(50)
            victim = running.pids()[0]
            os.kill(victim, signal.SIGKILL)
            until(lambda gone=victim: gone not in running.pids())  # type: ignore[misc]
            running.ready()
            later = counted()
            assert {name: value for name, value in later.items() if value < seen.get(name, 0)} == {}
            assert seen.keys() <= later.keys()
            seen = later
        traffic.stop()


@pytest.mark.parametrize("dialect", ["btauth", "legacy"])
def test_fault_25_one_signed_request_runs_once_over_workers_kills_and_restarts(
    triton: FakeTritonServer, tmp_path: Path, dialect: str
) -> None:
    with gateway(tmp_path, triton.address) as running:
        request = btauth("/Double", {"x": [1.0]}) if dialect == "btauth" else double(timeout="20")
        with ThreadPoolExecutor(8) as pool:  # a connection each, so that both workers get some
            statuses = list(pool.map(lambda copy: running.ask(copy).status_code, [request] * 8))
        assert sorted(statuses) == [200] + [401] * 7
        workers = running.pids()
        stop_still(running.process.pid)  # so that it starts no others meanwhile
        for victim in [*workers, running.process.pid]:
            os.kill(victim, signal.SIGKILL)
        running.process.wait()
    with gateway(tmp_path, triton.address) as again:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda copy: again.ask(copy).status_code, [request] * 8)) == {401}
        assert len(triton.asked) == 1
        until(lambda: again.ask(double()).status_code == 200)


def test_fault_sigterm_under_load_answers_what_was_admitted_and_leaves_nothing_behind(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address) as running:
        workers = [psutil.Process(pid) for pid in running.pids()]
        traffic = Traffic(running, callers=8, timeout="20")
        traffic.more()
        triton.hold.clear()
        until(lambda: triton.held == 8)
        before = [len(each) for each in traffic.by_caller]
        running.process.send_signal(signal.SIGTERM)
        until(lambda: running.get("/readyz").json()["draining"])
        triton.hold.set()
        assert running.process.wait(timeout=60) == 0
        statuses = traffic.stop()
        assert [set(each[: had + 1]) for each, had in zip(traffic.by_caller, before, strict=True)] == [{200}] * 8
        answered = statuses.count(200)
        assert [record.code for record in read_records(tmp_path / "traffic")].count("ok") == answered
        assert not [worker for worker in workers if worker.is_running()]


@pytest.mark.parametrize("sig", [signal.SIGHUP, signal.SIGINT])
def test_a_terminal_that_closes_costs_nothing_that_was_admitted(
    sig: signal.Signals, triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address) as running, ThreadPoolExecutor(1) as pool:
        workers = [psutil.Process(pid) for pid in running.pids()]
        triton.hold.clear()
        asked = pool.submit(running.ask, double())
        until(lambda: triton.held == 1)
        for pid in (running.process.pid, *running.pids()):  # a terminal tells all of them
            os.kill(pid, sig)
        until(lambda: running.get("/readyz").json()["draining"])
        running.process.send_signal(sig)
        triton.hold.set()
        assert asked.result().status_code == 200
        assert running.process.wait(timeout=60) == 0
        assert not [worker for worker in workers if worker.is_running()]


def test_workers_leave_when_their_parent_is_killed_and_the_next_gateway_takes_the_port(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address) as running:
        port = running.config.port
        running.kill()  # waits for the workers
    with gateway(tmp_path, triton.address, port=port) as again:
        assert again.ask(legacy("Plain", {"x": [1]})).status_code == 200


def test_fault_1_a_triton_that_comes_back_in_time_costs_no_request(triton: FakeTritonServer, tmp_path: Path) -> None:
    with gateway(tmp_path, triton.address) as running:
        traffic = Traffic(running, timeout="20")
        models = triton.models
        for _ in range(2):
            traffic.more()
            triton.stop()
            until(lambda: "headframe_in_flight 4.0" in running.get("/metrics").text)  # every caller waits
            triton.models = {}  # a server that is up before its releases are loaded
            triton.asked.clear()
            triton.start()
            until(lambda: len(triton.asked) > 8)
            triton.models = models
        traffic.more()
        assert set(traffic.stop()) == {200}


def test_fault_2_a_triton_that_hangs_is_answered_503_before_the_deadline(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address) as running:
        triton.hold.clear()
        reply = running.ask(double(timeout="5.0"))
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
        (asked,) = triton.asked
        assert asked.parameters["timeout"].int64_param <= 4_500_000  # microseconds: it was waited for no longer
        triton.hold.set()
        assert running.ask(legacy("Plain", {"x": [1]})).status_code == 200


def test_fault_route_flip_reaches_every_worker_at_once_and_drops_nothing(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address) as running:
        traffic = Traffic(running)
        for release in ("tiny-b", "tiny-a", "tiny-b"):
            traffic.more(50)
            write_routes(tmp_path, stable=release)
            flipped = time.time()
            traffic.more(50)
        assert set(traffic.stop()) == {200}
        late = [record.release for record in read_records(tmp_path / "traffic") if record.at > flipped]
        assert set(late) == {"tiny-b"}


def test_fault_garbled_files_and_missing_ones_leave_serving_as_it_was(triton: FakeTritonServer, tmp_path: Path) -> None:
    with gateway(tmp_path, triton.address) as running:
        assert running.ask(legacy("Plain", {"x": [1]})).status_code == 200
        for name in ("routes.json", "neurons.json", "prices.json"):
            (tmp_path / name).write_bytes(b'{"generation":')
        assert running.ask(legacy("Plain", {"x": [1]})).status_code == 200
        unready = until(lambda: (page := running.get("/readyz")).status_code == 503 and page)
        assert unready.json()["files"]["prices"]["problem"] == "prices.json cannot be read (DecodeError)"
        for name in ("routes.json", "neurons.json", "prices.json"):
            (tmp_path / name).unlink()
        assert running.ask(legacy("Plain", {"x": [1]})).status_code == 200
        write_state(tmp_path / "prices.json", PriceBook(time.time(), time.time(), {}))
        write_routes(tmp_path, stable="tiny-b")
        assert running.ask(legacy("Plain", {"x": [77]})).status_code == 200
        assert max(read_records(tmp_path / "traffic"), key=lambda each: each.at).release == "tiny-b"


def test_fault_4_a_candidate_that_answers_nan_never_reaches_a_validator(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    triton.models["tiny-c"] = broken
    with gateway(tmp_path, triton.address) as running:
        write_routes(tmp_path, stable="tiny-a", canary="tiny-c", share_bp=5000, shadow="tiny-c")
        for number in range(40):
            reply = running.ask(legacy("Plain", {"x": [number]}))
            assert (reply.status_code, reply.json()["y"]) == (200, [2.0 * number])
        records = list(read_records(tmp_path / "traffic"))
        faults = [record for record in records if record.release == "tiny-c"]
        assert faults
        assert {record.code for record in faults} == {"invalid"}
        assert sum(record.code == "ok" for record in records) == 40


def test_a_gateway_leaves_no_process_behind(triton: FakeTritonServer, tmp_path: Path) -> None:
    with gateway(tmp_path, triton.address) as running:
        workers = [psutil.Process(pid) for pid in running.pids()]
        assert running.stop() == 0
        assert not [worker for worker in workers if worker.is_running()]
