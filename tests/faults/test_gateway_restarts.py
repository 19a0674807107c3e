"""Where a supervisor holds the listening socket, a killed parent and a restart cost no request at all."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serving.public.listening import BACKLOG
from serving.traffic.writer import read_records
from serving.workers.acks import folder_of, living
from tests.faults.tools import Traffic
from tests.serving.callers import BOB, btauth, legacy
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.processes import gateway, until

pytestmark = pytest.mark.slow
PATIENT_S = 20.0
"""In which a caller that never rests surely asks again; a connection that rests longer is closed, a request or not."""


@pytest.fixture(scope="module")
def triton() -> Iterator[FakeTritonServer]:
    server = FakeTritonServer(tiny_a=doubled)
    yield server
    server.hold.set()
    server.stop()


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """A listening socket that outlives every gateway of the test, as a supervisor's does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(BACKLOG)
        yield listener


class Strangers(Traffic):
    """Callers that open a connection for every request."""

    def _ask_on(self, number: int) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                found = self._running.ask(btauth("/Double", {"x": [float(number)]}, sender=BOB)).status_code
            except httpx.HTTPError:
                found = 0
            self._note(number, found, began)


def test_fault_killed_parent_costs_nothing_where_the_socket_outlives_it(
    triton: FakeTritonServer, held: socket.socket, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address, held, port=held.getsockname()[1], idle_grace_s=PATIENT_S) as running:
        traffics = [Traffic(running, 3), Strangers(running, 2)]
        for _ in range(2):
            for traffic in traffics:
                traffic.more()
            orphans = running.pids()
            os.kill(running.process.pid, signal.SIGKILL)
            running.process.wait()
            for traffic in traffics:
                traffic.more(20)  # nobody but the orphans can have answered these, and they stay for 20 s
            assert {ack.pid for ack in living(folder_of(tmp_path / "run"))} == set(orphans)
            running.start()
            running.ready()
            until(lambda gone=orphans: not any(psutil.pid_exists(pid) for pid in gone))  # type: ignore[misc]
            until(lambda: running.get("/workers").json()["left_over"] == [])  # the parent looks now and then
        for traffic in traffics:
            traffic.more()
        statuses = [status for traffic in traffics for status in traffic.stop()]
        assert set(statuses) == {200}
        records = list(read_records(tmp_path / "traffic"))
        assert len(records) == len(statuses)
        assert {record.code for record in records} == {"ok"}


def test_fault_restart_costs_nothing_where_the_socket_outlives_it(
    triton: FakeTritonServer, held: socket.socket, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address, held, port=held.getsockname()[1], idle_grace_s=PATIENT_S) as running:
        traffics = [Traffic(running, 3), Strangers(running, 2)]
        for _ in range(2):
            for traffic in traffics:
                traffic.more()
            running.process.terminate()
            assert running.process.wait(timeout=60) == 0
            running.start()  # whoever came meanwhile waits in the socket
            for traffic in traffics:
                traffic.more()
        statuses = [status for traffic in traffics for status in traffic.stop()]
        assert set(statuses) == {200}
        assert len(list(read_records(tmp_path / "traffic"))) == len(statuses)


def test_orphans_that_nobody_follows_leave_in_the_end(
    triton: FakeTritonServer, held: socket.socket, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address, held, port=held.getsockname()[1]) as running:
        orphans = [psutil.Process(pid) for pid in running.pids()]
        began = time.monotonic()
        os.kill(running.process.pid, signal.SIGKILL)
        assert running.ask(legacy("Plain", {"x": [1]})).status_code == 200
        _, alive = psutil.wait_procs(orphans, timeout=60)
        assert not alive
        assert time.monotonic() - began > 10
        assert living(folder_of(tmp_path / "run")) == []


def test_a_hung_orphan_holds_up_nobody(triton: FakeTritonServer, held: socket.socket, tmp_path: Path) -> None:
    with gateway(tmp_path, triton.address, held, port=held.getsockname()[1], drain_s=0.0, idle_grace_s=0.1) as running:
        orphan = psutil.Process(running.pids()[0])
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
        orphan.suspend()
        try:
            running.start()
            running.ready()
            psutil.wait_procs([orphan], timeout=60)
            assert not orphan.is_running()
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
        assert running.ask(legacy("Plain", {"x": [1]})).status_code == 200


def test_without_a_held_socket_workers_leave_with_their_parent(triton: FakeTritonServer, tmp_path: Path) -> None:
    with gateway(tmp_path, triton.address) as running:
        running.kill()  # waits for the workers
        assert living(folder_of(tmp_path / "run")) == []
