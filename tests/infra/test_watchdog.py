"""A Triton that hangs is ended; one that starts, loads, is busy or is gone already is left alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.duties import all_duties
from infra.ports import endpoints
from infra.settings import Settings
from infra.stack.processes import markers
from infra.triton import Triton
from infra.watchdog import BUSY_SILENT_S, SILENT_S, Watchdog, cpu_seconds, embedded_server
from tests.servers import TritonServer
from tests.serving.processes import until


class Server:
    """A real process in Triton's stead, and whether it says that it lives."""

    def __init__(self, code: str) -> None:
        ready = [sys.executable, "-c", f"print('up', flush=True); {code}"]
        self.process = subprocess.Popen(ready, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout is not None
        self.process.stdout.readline()  # the CPU time of its start is spent
        self.answers = False
        self.now = 1000.0
        self.dog = Watchdog(lambda: self.answers, self.find, lambda: self.now)

    def find(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def look(self, *, answers: bool, after: float = 0.0) -> bool:
        """Whether the look ended it."""
        self.answers = answers
        self.now += after
        return self.dog.look() is not None


@pytest.fixture
def idle() -> Iterator[Server]:
    yield from served("import time; time.sleep(600)")


@pytest.fixture
def busy() -> Iterator[Server]:
    yield from served("import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])")


def served(code: str) -> Iterator[Server]:
    server = Server(code)
    yield server
    with contextlib.suppress(ProcessLookupError):  # its child lives on where it was ended alone
        os.killpg(server.process.pid, signal.SIGKILL)
    server.process.communicate()


def test_an_idle_server_that_stops_answering_is_ended_after_a_while(idle: Server) -> None:
    assert not idle.look(answers=True)
    assert not idle.look(answers=False, after=1.0)
    assert not idle.look(answers=False, after=SILENT_S - 0.1)
    assert idle.look(answers=False, after=0.2)
    assert idle.process.wait(60) == -signal.SIGKILL
    assert not idle.look(answers=False, after=600.0)


def test_a_server_that_answers_in_between_is_not(idle: Server) -> None:
    for _ in range(10):
        assert not idle.look(answers=True, after=1.0)
        assert not idle.look(answers=False, after=1.0)
        assert not idle.look(answers=False, after=SILENT_S - 2.0)
    assert idle.process.poll() is None


def test_a_server_that_never_answered_is_starting(idle: Server) -> None:
    for _ in range(10):
        assert not idle.look(answers=False, after=600.0)
    assert idle.process.poll() is None


@pytest.mark.slow
def test_a_server_whose_children_work_is_loading_until_it_takes_far_too_long(busy: Server) -> None:
    assert not busy.look(answers=True)
    assert not busy.look(answers=False)
    before, end = cpu_seconds(busy.find()), time.monotonic() + 60
    while cpu_seconds(busy.find()) < before + 0.6:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not busy.look(answers=False, after=SILENT_S + 1.0)
    assert busy.look(answers=False, after=BUSY_SILENT_S - SILENT_S)


def test_a_server_that_is_gone_is_the_supervisors_business(idle: Server) -> None:
    assert not idle.look(answers=True)
    idle.process.kill()
    idle.process.wait()
    assert not idle.look(answers=False, after=1.0)
    assert not idle.look(answers=False, after=600.0)


def test_only_an_embedded_triton_is_watched(tmp_path: Path) -> None:
    def names(**settings: str) -> set[str]:
        return {duty.name for duty in all_duties(Settings.model_validate({"home": tmp_path, **settings}))}

    assert "watchdog" in names()
    assert "watchdog" not in names(triton_grpc="127.0.0.1:9")


def test_the_embedded_server_is_the_process_that_the_supervisor_started(tmp_path: Path) -> None:
    assert embedded_server(tmp_path) is None
    program = tmp_path / "tritonserver"
    program.symlink_to("/bin/sleep")
    environment = {**os.environ, **markers(tmp_path, "triton")}
    with subprocess.Popen([program, "600"], env=environment) as process:
        try:
            found = embedded_server(tmp_path)
            assert found is not None
            assert found.pid == process.pid
        finally:
            process.kill()


@pytest.mark.slow
def test_a_real_triton_that_is_stopped_is_noticed_and_ended(triton_server: TritonServer) -> None:
    address = triton_server.triton.address
    port = int(address.rpartition(":")[2])
    listening = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN"]
    (server,) = {each.pid for each in listening if tuple(each.laddr)[1:] == (port,) and each.pid}
    assert psutil.Process(server).name() == "tritonserver"
    now = [1000.0]

    def alive() -> bool:
        triton = Triton(address)
        try:
            return triton.ready()
        finally:
            triton.close()

    ended: list[psutil.Process] = []

    class Spared(psutil.Process):
        """The session's Triton is needed by other tests: what would end it is noted."""

        def kill(self) -> None:
            ended.append(self)

    dog = Watchdog(alive, lambda: Spared(server), lambda: now[0])
    assert dog.look() is None
    os.kill(server, signal.SIGSTOP)
    try:
        until(lambda: not alive())  # its threads stop one after the other
        assert dog.look() is None
        now[0] += SILENT_S
        assert dog.look() == server
    finally:
        os.kill(server, signal.SIGCONT)
    assert [each.pid for each in ended] == [server]
    assert dog.look() is None


def test_its_address_is_the_stacks_own(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert endpoints(settings).triton_grpc is None  # no port is chosen: the duty says so, and ends nothing
    (duty,) = [duty for duty in all_duties(settings) if duty.name == "watchdog"]
    duty.once()
    assert duty.record.error is not None
