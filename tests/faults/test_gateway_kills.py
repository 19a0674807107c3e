"""What a kill costs: the requests in flight in the killed part, and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.state import PriceBook, write_state
from serving.traffic import read_records
from tests.faults.tools import Traffic
from tests.serving.callers import legacy
from tests.serving.fake_triton import FakeTritonServer, broken, doubled
from tests.serving.gateways import write_routes
from tests.serving.processes import gateway, until

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
        traffic = Traffic(running)
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
        reply = running.ask(legacy("Plain", {"x": [1]}, timeout="1.0"))
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
        assert float(reply.headers["bt_header_axon_process_time"]) < 1.0
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
        late = [record.release for record in read_records(tmp_path / "traffic") if record.at > flipped + 0.01]
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
