"""Disks that are full, read-only, or no longer emptied into S3."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from serving.state import PriceBook, write_state
from serving.traffic.writer import read_records
from tests.faults.tools import Traffic, double, metric, still_serves
from tests.serving.callers import legacy
from tests.serving.fake_triton import FakeTritonServer
from tests.serving.gateways import write_neurons, write_routes
from tests.serving.processes import Running, gateway, until

pytestmark = pytest.mark.slow
_UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]
_MOUNT = 'mount -t tmpfs -o size=24m tmpfs "$1" && shift && exec "$@"'


def namespaces() -> str | None:
    """Why no small disk of our own can be had here, if so."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "util-linux is not installed"
    trial = [*_UNSHARE, "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no mount namespace may be made here: {done.stderr.strip()}"


class SmallDisk:
    """A gateway whose record, nonces and run folder lie on 24 MB of its own, which this test may fill or lock."""

    def __init__(self, running: Running, folder: Path) -> None:
        self.running = running
        self._pid = running.process.pid
        self._inside = Path(f"/proc/{self._pid}/root{folder}")
        self._folder = folder

    def fill(self) -> None:
        """Leave no byte."""
        with suppress(OSError), (self._inside / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"x" * 4096):
                pass

    def empty(self) -> None:
        """Give the room back."""
        (self._inside / "filler").unlink()

    def records(self) -> int:
        """Records on it."""
        return sum(record.code == "ok" for record in read_records(self._inside / "traffic"))


@pytest.fixture
def disk(triton: FakeTritonServer, tmp_path: Path) -> Iterator[SmallDisk]:
    reason = namespaces()
    if reason is not None:
        pytest.skip(reason)
    write_routes(tmp_path, stable="tiny-a")
    write_neurons(tmp_path)
    write_state(tmp_path / "prices.json", PriceBook(time.time(), time.time(), {}))
    small = tmp_path / "disk"
    small.mkdir()
    folders: dict[str, Any] = {name: str(small / name) for name in ("traffic", "nonces", "run")}
    prefix = [*_UNSHARE, "sh", "-c", _MOUNT, "sh", str(small)]
    with gateway(tmp_path, triton.address, prefix=prefix, **folders) as running:
        yield SmallDisk(running, small)


def _restarts(running: Running) -> int:
    return int(running.get("/workers").json()["restarts"])


def test_fault_disk_full_crashes_nobody_and_is_over_once_there_is_room(disk: SmallDisk) -> None:
    running = disk.running
    assert still_serves(running)
    disk.fill()
    statuses, end = [], time.monotonic() + 35.0  # longer than a worker may say nothing of itself
    while time.monotonic() < end:
        statuses.append(running.ask(double()).status_code)
    assert set(statuses) <= {200, 503}  # its nonce needs room; its record may be lost
    disk.empty()
    until(lambda: all(still_serves(running) for _ in range(20)))  # each worker looks for itself
    assert _restarts(running) == 0
    answered = 21 + statuses.count(200)
    until(lambda: disk.records() + metric(running, "headframe_traffic_lost") >= answered)  # told once a second


def test_fault_disk_full_does_not_keep_a_killed_worker_from_coming_back(disk: SmallDisk) -> None:
    running = disk.running
    disk.fill()
    victim = running.pids()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in running.pids() and len(running.pids()) == running.config.workers)
    disk.empty()
    running.ready()
    until(lambda: all(still_serves(running) for _ in range(20)))


def locked(running: Running, *, on: bool) -> None:
    """Let no write of the workers reach a file, as on a disk that the kernel turned read-only under them."""
    limit = 0 if on else resource.RLIM_INFINITY
    for pid in running.pids():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def test_fault_read_only_disk_crashes_nobody_and_lets_no_nonce_run_twice(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address) as running:
        assert still_serves(running)
        locked(running, on=True)
        request, asked = double(), len(triton.asked)
        first = [running.ask(request).status_code for _ in range(10)]
        assert set(first) <= {200, 401, 503}
        assert {running.ask(double()).status_code for _ in range(50)} <= {200, 503}
        locked(running, on=False)
        until(lambda: still_serves(running))
        later = [running.ask(request).status_code for _ in range(10)]
        assert (first + later).count(200) <= 1
        assert len(triton.asked) > asked
        assert _restarts(running) == 0


def test_fault_11_while_s3_is_down_answers_go_on_and_the_record_stays_below_its_cap_and_counts(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    """Nobody ships here, as when S3 has been down for hours."""
    big = {"x": [0.123456789] * 2000}
    with gateway(tmp_path, triton.address) as running:
        for _ in range(100):
            assert running.ask(legacy("Double", big, ("x",))).status_code == 200
    size = _size(tmp_path / "traffic")
    with gateway(tmp_path, triton.address, traffic_disk_cap=size // 2) as running:
        traffic = Traffic(running)
        until(lambda: metric(running, "headframe_traffic_bodies_dropped_total") > 0)
        traffic.more()
        assert set(traffic.stop()) == {200}
        assert _size(tmp_path / "traffic") < size
        digests = [record.answer_digest for record in read_records(tmp_path / "traffic")]
        assert len(digests) >= 100
        assert all(digests)


def _size(folder: Path) -> int:
    return sum(os.stat(path).st_size for path in folder.iterdir() if path.is_file())
