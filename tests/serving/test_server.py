"""The gateway as processes: ports, private pages, metrics, drain, and refusals to start."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serving.traffic.writer import read_records
from tests.serving.callers import ALICE, BOB, Request, btauth, legacy
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.gateways import write_routes
from tests.serving.processes import Running, config_of, gateway, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def triton() -> Iterator[FakeTritonServer]:
    server = FakeTritonServer(tiny_a=doubled)
    yield server
    server.hold.set()
    server.stop()


@pytest.fixture(scope="module")
def running(triton: FakeTritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with gateway(tmp_path_factory.mktemp("gateway"), triton.address) as made:
        yield made


def long() -> Request:
    """One that may take longer than anything here."""
    return legacy("Double", {"x": [1.0]}, ("x",), timeout="20")


def test_both_dialects_are_answered_on_one_port(running: Running) -> None:
    reply = running.ask(legacy("Double", {"x": [1.5]}, ("x",)))
    assert (reply.status_code, reply.json()) == (200, {"x": [1.5], "y": [3.0]})
    assert reply.headers["bt_header_axon_status_code"] == "200"
    reply = running.ask(btauth("/Double?q=%20a", {"x": [2]}, sender=BOB))
    assert (reply.status_code, reply.json()) == (200, {"y": [4.0]})
    assert "server" not in reply.headers


def test_a_query_that_is_empty_or_odd_is_signed_as_it_stands_on_the_wire(running: Running) -> None:
    for target in ("/Double?", "/Double?a=b&a=b", "/Double?x=%C3%A9+%20"):
        with httpx.Client(trust_env=False, timeout=60) as client:
            request = btauth(target, {"x": [2]})
            sent = client.build_request("POST", running.url, headers=request.headers, content=request.body)
            sent.url = sent.url.copy_with(raw_path=target.encode())
            assert client.send(sent).status_code == 200


def test_many_calls_on_one_connection(running: Running) -> None:
    with httpx.Client(trust_env=False) as client:
        for number in range(50):
            reply = running.ask(legacy("Double", {"x": [number]}, sender=ALICE), client)
            assert reply.status_code == 401  # x is hashed by the route and not by this caller
            reply = running.ask(legacy("Plain", {"x": [number]}), client)
            assert (reply.status_code, reply.json()["y"]) == (200, [2.0 * number])


def test_the_private_port_tells_health_readiness_workers_and_metrics(running: Running) -> None:
    assert running.get("/healthz").json()["ok"]
    ready = until(lambda: (page := running.get("/readyz")).status_code == 200 and page)  # Triton has a second to answer
    assert ready.json()["ready"] is True
    assert ready.json()["slots"] == {"tiny": {"stable": "tiny-a", "ready": True}}
    assert all(file["fresh"] for file in ready.json()["files"].values())
    pids = running.pids()
    assert len(pids) == 2
    assert all(psutil.Process(pid).ppid() == running.process.pid for pid in pids)
    running.ask(legacy("Plain", {"x": [1]}))
    until(lambda: "headframe_requests_total" in running.get("/metrics").text)  # handed over once a second
    text = running.get("/metrics").text
    for name in (
        "headframe_requests_total", "headframe_stage_seconds_bucket", "headframe_file_age_seconds",
        "headframe_release_requests_total", "headframe_workers 2.0",
    ):  # fmt: skip
        assert name in text
    assert 'headframe_file_age_seconds{file="routes"}' in text
    assert running.get("/nothing").status_code == 404


def test_the_private_pages_are_not_on_the_public_port(running: Running) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/workers", "/", "/docs", "/shield_manifest.json"):
        assert httpx.get(running.url + path, trust_env=False, timeout=60).status_code == 404


def test_readiness_follows_routes_and_triton(running: Running, triton: FakeTritonServer) -> None:
    home = Path(running.config.routes).parent
    try:
        write_routes(home, stable="tiny-z")  # no such model
        unready = until(lambda: (page := running.get("/readyz")).status_code == 503 and page)
        assert unready.json()["slots"] == {"tiny": {"stable": "tiny-z", "ready": False}}
    finally:
        write_routes(home, stable="tiny-a")
    until(lambda: running.get("/readyz").status_code == 200)


def test_counters_add_up_over_the_workers(running: Running) -> None:
    def counted() -> float:
        lines = running.get("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith('headframe_requests_total{caller="upper",dialect="btauth",outcome="ok",route="Plain"}')
        )

    for number in range(40):  # a connection each, so that both workers take some
        assert running.ask(btauth("/Plain", {"x": [number]})).status_code == 200
    until(lambda: counted() == 40)


def test_log_lines_are_json_with_the_request_id_of_the_record(running: Running) -> None:
    running.ask(legacy("Plain", {"x": [424242]}))
    (record,) = [each for each in read_records(Path(running.config.traffic)) if each.request == b"[424242.0]"]
    logged = until(lambda: [line for line in running.log.read_text().splitlines() if record.request_id in line])
    line = json.loads(logged[0])
    assert (line["event"], line["code"], line["release"]) == ("request", "ok", "tiny-a")


def test_sigterm_finishes_what_was_admitted(triton: FakeTritonServer, tmp_path: Path) -> None:
    with gateway(tmp_path, triton.address) as running:
        triton.hold.clear()
        seen = len(triton.asked)
        replies: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: replies.append(running.ask(long())))
        asking.start()
        try:
            until(lambda: len(triton.asked) > seen)
            running.process.terminate()
            until(lambda: _refuses(running.config.port))
            assert not replies
        finally:
            triton.hold.set()
        asking.join()
        assert replies[0].status_code == 200
        assert running.stop() == 0


def test_what_cannot_be_finished_in_the_drain_is_told_so(triton: FakeTritonServer, tmp_path: Path) -> None:
    with gateway(tmp_path, triton.address, drain_s=1.0) as running:
        triton.hold.clear()
        seen = len(triton.asked)
        replies: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: replies.append(running.ask(long())))
        asking.start()
        try:
            until(lambda: len(triton.asked) > seen)
            assert running.stop() == 0
        finally:
            triton.hold.set()
        asking.join()
        assert (replies[0].status_code, replies[0].json()["message"]) == (503, "this miner is stopping")
        (record,) = read_records(tmp_path / "traffic")
        assert (record.status, record.code) == (503, "draining")


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_taken_port_is_one_clear_line(triton: FakeTritonServer, tmp_path: Path, running: Running) -> None:
    for name in ("port", "private_port"):
        config = config_of(tmp_path, triton.address, **{name: getattr(running.config, name)})
        log = tmp_path / f"{name}.log"
        second = Running(config, log)
        assert second.process.wait(timeout=60) == 1
        second.stop()
        last = log.read_text().strip().splitlines()[-1]
        assert f"cannot listen on 127.0.0.1:{getattr(config, name)}" in last
        assert "Address already in use" in last
