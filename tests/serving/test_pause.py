"""A pause, and what workers say of routes, on a gateway that runs."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.state import Pause, read_pause, write_state
from tests.serving.callers import Request, btauth, legacy
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.gateways import write_routes
from tests.serving.processes import Running, gateway, until


@pytest.fixture
def triton() -> Iterator[FakeTritonServer]:
    server = FakeTritonServer(tiny_a=doubled, tiny_b=doubled)
    yield server
    server.hold.set()
    server.stop()


def long() -> Request:
    """One that may take longer than anything here."""
    return legacy("Double", {"x": [1.0]}, ("x",), timeout="20")


def everywhere(running: Running, **said: object) -> bool:
    acks = running.get("/workers").json()["said"]
    return len(acks) == 2 and all(ack[name] == value for ack in acks for name, value in said.items())


def test_only_a_pause_puts_the_file_there(tmp_path: Path) -> None:
    path = tmp_path / "pause.json"
    assert read_pause(path) is None
    write_state(path, Pause("new disk", 17.0))
    assert read_pause(path) == Pause("new disk", 17.0)
    path.write_bytes(b"{")
    assert read_pause(path) == Pause("pause.json cannot be read", 0.0)


def test_a_shortage_of_open_files_is_no_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", short_of_files)
    assert read_pause(tmp_path / "pause.json") is None
    (tmp_path / "pause.json").touch()
    assert read_pause(tmp_path / "pause.json") == Pause("pause.json cannot be read", 0.0)


def short_of_files(path: Path) -> bytes:
    """The kernel looks for a free number before it looks for the file."""
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.slow
def test_a_paused_gateway_is_politely_away_and_finishes_what_it_admitted(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    pause = tmp_path / "pause.json"
    with gateway(tmp_path, triton.address, pause=str(pause)) as running:
        triton.hold.clear()
        replies: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: replies.append(running.ask(long())))
        asking.start()
        until(lambda: triton.asked)
        write_state(pause, Pause("new disk", time.time()))
        until(lambda: everywhere(running, paused=True))
        for request in (legacy("Plain", {"x": [1]}), btauth("/Plain", {"x": [1]}), legacy("Synapse", {})):
            reply = running.ask(request)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "60")
            assert "paused" in reply.text or request.target == "/Synapse"
        ready = running.get("/readyz")
        assert (ready.status_code, ready.json()["paused"]["reason"]) == (503, "new disk")
        assert running.get("/healthz").status_code == 200
        assert "headframe_paused 1.0" in running.get("/metrics").text
        triton.hold.set()
        asking.join()
        assert replies[0].status_code == 200
        pause.unlink()
        until(lambda: everywhere(running, paused=False))
        assert running.ask(legacy("Plain", {"x": [1]})).status_code == 200
        until(lambda: running.get("/readyz").status_code == 200)


@pytest.mark.slow
def test_a_pause_holds_over_a_restart(triton: FakeTritonServer, tmp_path: Path) -> None:
    write_state(tmp_path / "pause.json", Pause("new disk", time.time()))
    with gateway(tmp_path, triton.address, pause=str(tmp_path / "pause.json")) as running:
        assert running.ask(legacy("Plain", {"x": [1]})).status_code == 503


@pytest.mark.slow
def test_idle_workers_take_new_routes_and_say_which_are_drained(triton: FakeTritonServer, tmp_path: Path) -> None:
    with gateway(tmp_path, triton.address) as running:
        until(lambda: everywhere(running, routes=1, drained=1))
        triton.hold.clear()
        asking = threading.Thread(target=lambda: running.ask(long()))
        asking.start()
        until(lambda: triton.asked)
        write_routes(tmp_path, stable="tiny-b", generation=2)
        until(lambda: everywhere(running, routes=2))
        drained = sorted(ack["drained"] for ack in running.get("/workers").json()["said"])
        assert drained == [1, 2]  # one has a call on tiny-a, the other has none
        assert 'headframe_route_generation{of="drained"} 1.0' in running.get("/metrics").text
        triton.hold.set()
        asking.join()
        until(lambda: everywhere(running, routes=2, drained=2))
        agreed = {"file": 2, "workers": [2, 2], "agreed": True}
        until(lambda: running.get("/readyz").json()["routes"] == agreed)  # the parent looks for itself
