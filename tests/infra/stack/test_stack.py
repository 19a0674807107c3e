"""The whole embedded stack, for real: up, status, kills, and down."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from infra.ports import choose_ports, is_free, read_ports
from infra.settings import Settings
from infra.stack import lifecycle
from infra.stack.commands import Command, tool
from infra.stack.config import socket_path
from infra.stack.lifecycle import Up
from infra.stack.parts import PARTS, Part
from infra.stack.processes import SUPERVISOR, marked
from infra.stack.supervisor import Supervisor
from serving.errors import UserError
from serving.miners import Ping
from serving.wire import legacy as legacy_wire
from tests.serving.callers import legacy

pytestmark = [pytest.mark.slow, pytest.mark.stack]
ALL = {part.name for part in PARTS}
STALE_S = legacy_wire.BEHIND_S + Ping.max_timeout
"""A ping that waited so long for a gateway that starts again is too old to be answered, whoever answers."""


def headframe(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [tool("headframe"), *arguments]
    environ = {**os.environ, "HEADFRAME_HOME": str(home), "HEADFRAME_SLOTS": "[]", **env}  # no model to train first
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=home.parent)


def status(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(headframe(home, "status", "--json").stdout)
    return found


def running(home: Path, *names: str) -> dict[str, Any]:
    """What status says once these parts run, or all: on a busy machine one look may find one of them slow."""

    def run() -> dict[str, Any] | None:
        document = status(home)
        whole = all(document["components"][name]["state"] == "running" for name in names or ALL)
        return document if whole and (names or workers_take_connections(document) == 2) else None

    found: dict[str, Any] = until(run)
    return found


def workers_take_connections(document: dict[str, Any]) -> int:
    """How many do: the gateway runs as soon as one of them does."""
    try:
        facts = page(document["gateway"]["private_url"] + "/workers").json()
    except httpx.HTTPError:
        return 0
    return len([ack for ack in facts["said"] if ack["pid"] in facts["pids"] and not ack["leaving"]])


def gone(*pids: int) -> bool:
    """Whether none of these processes is left; a zombie is what its parent has not looked at yet."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def page(url: str) -> httpx.Response:
    return httpx.get(url, timeout=60, trust_env=False)


def ping(url: str) -> httpx.Response:
    request = legacy("Synapse", {})
    return httpx.post(url + "/Synapse", headers=request.headers, content=b"{}", timeout=60, trust_env=False)


def until(look: Callable[[], Any], limit_s: float = 240.0) -> Any:
    end = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.1)
    return found


def suspend(*pids: int) -> None:
    """Stop processes by a signal, and wait until they have taken it."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids))


def some(*names: str) -> Callable[[Settings], tuple[Part, ...]]:
    return lambda _: tuple(part for part in PARTS if part.name in names)


def quietly(part: str, what: str) -> None:
    """Nobody watches."""


def bring_up(home: Path, *names: str, **settings: Any) -> Up:
    return lifecycle.up(Settings.model_validate({"home": home, **settings}), quietly, chosen=some(*names))


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A home of its own, whose stack is brought down afterwards."""
    home = tmp_path / "home"
    choose_ports(Settings(home=home))  # from this test process's own
    yield home
    lifecycle.down(Settings(home=home), quietly)
    assert marked(home) == {}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose whole stack is up."""
    found = tmp_path_factory.mktemp("whole") / "home"
    choose_ports(Settings(home=found))
    done = headframe(found, "up")
    try:
        assert done.returncode == 0, done.stderr
        yield found
    finally:
        headframe(found, "down")


def test_every_part_runs_and_answers_where_status_says(home: Path) -> None:
    running(home)
    done = until(lambda: (found := headframe(home, "status", "--json")).returncode == 0 and found)
    document = json.loads(done.stdout)
    assert {name: part["state"] for name, part in document["components"].items()} == dict.fromkeys(ALL, "running")
    assert {part["restarts"] for part in document["components"].values()} == {0}
    assert document["gateway"]["hotkey"] == "5CiPPseXPECbkjWCa6MnjNokrgYjMqmKndv2rSnekmSK2DjL"
    for url in (document["mlflow"]["url"] + "/health", document["prefect"]["url"] + "/api/health"):
        assert page(url).status_code == 200
    assert "headframe_file_age_seconds" in page(document["metrics"]["url"]).text
    assert len(document["components"]["gateway"]["pids"]) == 3
    pids = [pid for part in document["components"].values() for pid in part["pids"]]
    assert len(pids) == len(set(pids))
    assert all(psutil.pid_exists(pid) for pid in pids)


def test_up_again_changes_nothing(home: Path) -> None:
    before = running(home)
    done = headframe(home, "up")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "The stack is up already.")
    assert running(home)["components"] == before["components"]


def test_up_tells_of_changed_settings(home: Path) -> None:
    done = headframe(home, "up", HEADFRAME_GATEWAY__WORKERS="3")
    assert done.returncode == 0
    assert "settings have changed" in done.stdout


@pytest.mark.parametrize(
    "killed", [("triton",), ("s3", "sidecar"), ("gateway", "flows"), ("mlflow", "prefect")], ids="+".join
)
def test_what_is_killed_comes_back_and_is_counted(home: Path, killed: tuple[str, ...]) -> None:
    before = running(home)["components"]
    for name in killed:
        os.kill(before[name]["pids"][0], signal.SIGKILL)

    def back() -> dict[str, Any] | None:
        now: dict[str, Any] = status(home)["components"]
        whole = all(part["state"] == "running" for part in now.values())
        return now if whole and all(now[name]["restarts"] > before[name]["restarts"] for name in killed) else None

    after = until(back)
    for name in ALL:
        grown = after[name]["restarts"] - before[name]["restarts"]
        assert grown == (1 if name in killed else 0), name
        assert (before[name]["pids"][0] not in after[name]["pids"]) == (name in killed), name


def test_a_killed_worker_counts_for_the_gateway(home: Path) -> None:
    before = running(home)["components"]["gateway"]
    os.kill(before["pids"][-1], signal.SIGKILL)

    def back() -> bool:
        now = status(home)["components"]["gateway"]
        return now["state"] == "running" and len(now["pids"]) == 3 and now["restarts"] == before["restarts"] + 1

    until(back)


class Pings:
    """Validators that ping without a pause, over a new connection each time and over a kept one."""

    def __init__(self, url: str) -> None:
        self.replies: list[int | str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url, kept)) for kept in (False, True)]
        for thread in self._threads:
            thread.start()

    def _ask(self, url: str, kept: bool) -> None:
        with httpx.Client(trust_env=False, timeout=240) as client:
            while not self._stop.is_set():
                request, signed_at = legacy("Synapse", {}), time.monotonic()
                send = client.post if kept else partial(httpx.post, trust_env=False, timeout=240)
                try:
                    reply: int | str = send(url + "/Synapse", headers=request.headers, content=b"{}").status_code
                except httpx.HTTPError as error:
                    reply = type(error).__name__
                if reply != 401 or time.monotonic() - signed_at < STALE_S:
                    self.replies.append(reply)

    def more(self, count: int = 50) -> None:
        """Wait for further replies."""
        wanted = len(self.replies) + count
        until(lambda: len(self.replies) >= wanted)

    def stop(self) -> list[int | str]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.replies


def test_the_gateways_port_outlives_a_kill_and_a_restart(home: Path) -> None:
    before = running(home)
    parent, *workers = before["components"]["gateway"]["pids"]
    pings = Pings(before["gateway"]["url"])
    try:
        pings.more()
        os.kill(parent, signal.SIGKILL)
        until(lambda: gone(*workers))
        pings.more()
        supervisor = Supervisor(Path(os.path.realpath(home)))
        supervisor.stop("gateway")
        until(lambda: supervisor.infos()["gateway"].statename == "STOPPED")
        supervisor.start("gateway")
        pings.more()
    finally:
        replies = pings.stop()
    assert set(replies) <= {200, 429}  # 429: they ask for more than a hotkey's budget
    running(home)


def test_a_pause_is_told_by_status_and_up_and_ended_by_resume(home: Path) -> None:
    url = running(home)["gateway"]["url"]
    done = headframe(home, "pause", "--reason", "new disk", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["workers"] == 2
    reply = ping(url)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "60")
    assert (status(home)["gateway"]["paused"], status(home)["gateway"]["reason"]) == (True, "new disk")
    assert "Paused (new disk)" in headframe(home, "up").stdout
    assert headframe(home, "resume").stdout == "Not paused. In force in 2 workers.\n"
    assert ping(url).status_code == 200


def test_parts_that_hang_are_unready_at_once_and_mended_by_up(home: Path) -> None:
    before = running(home)["components"]
    hung = {name: before[name]["pids"][0] for name in ("sidecar", "gateway", "flows")}
    suspend(*hung.values())

    def others_run() -> bool:
        now = status(home)["components"]
        for name, pid in hung.items():
            assert now[name]["state"] == "unready"
            assert now[name]["reason"] == f"process {pid} is suspended; 'headframe up' starts it again"
        return all(now[name]["state"] == "running" for name in ALL - hung.keys())

    until(others_run)
    done = headframe(home, "up")
    assert done.returncode == 0, done.stderr
    after = running(home)["components"]
    for name in ALL:
        assert (before[name]["pids"][0] in after[name]["pids"]) == (name not in hung)


def test_a_second_stack_runs_beside_it(home: Path, scratch: Path) -> None:
    bring_up(scratch, "s3", "triton")
    ours, theirs = read_ports(scratch / "run" / "ports.json"), read_ports(home / "run" / "ports.json")
    assert not set(ours.values()) & set(theirs.values())
    before = running(home)["components"]
    assert sorted(lifecycle.down(Settings(home=scratch), quietly)) == ["s3", "triton"]
    assert running(home)["components"] == before


def test_parts_answer_on_when_the_supervisor_is_killed_and_up_replaces_them(scratch: Path) -> None:
    bring_up(scratch, "s3", "triton")
    before = running(scratch, "s3", "triton")
    os.kill(before["supervisor"]["pid"], signal.SIGKILL)
    until(lambda: gone(before["supervisor"]["pid"]))
    assert headframe(scratch, "status", "--json").returncode == 1
    now = running(scratch, "s3", "triton")
    assert now["supervisor"] == {"state": "stopped", "pid": None}
    for name in ("s3", "triton"):
        part = now["components"][name]
        assert (part["state"], part["pids"], part["restarts"]) == ("running", before["components"][name]["pids"], None)
    assert now["s3"] == before["s3"]
    assert bring_up(scratch, "s3", "triton").replaced == ["s3", "triton"]
    after = running(scratch, "s3", "triton")
    for name in ("s3", "triton"):
        assert after["components"][name]["restarts"] == 0
        assert not set(after["components"][name]["pids"]) & set(before["components"][name]["pids"])
    assert after["s3"] == before["s3"]  # a home keeps its ports


def test_down_leaves_no_process_and_no_port(home: Path) -> None:
    pids = [pid for part in status(home)["components"].values() for pid in part["pids"]]
    done = headframe(home, "down")
    assert done.returncode == 0
    assert gone(*pids)
    assert marked(home) == {}
    assert all(is_free(port) for port in read_ports(home / "run" / "ports.json").values())
    document = status(home)
    assert {part["state"] for part in document["components"].values()} == {"stopped"}
    assert document["gateway"]["url"] is None
    again = headframe(home, "down")
    assert (again.returncode, again.stdout.startswith("Nothing was running")) == (0, True)


def test_a_taken_port_stops_up_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = headframe(tmp_path / "home", "up", HEADFRAME_PORTS__PREFECT=str(port))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"headframe: port {port} for prefect is taken on 127.0.0.1; stop what listens there, "
        "or set [ports] prefect to another port (0 picks a free one)"
    ]
    assert marked(tmp_path / "home") == {}


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    done = headframe(tmp_path / "home", "up")
    assert done.returncode == 1
    assert done.stderr.startswith(f"headframe: cannot write below {tmp_path}/home")
    assert len(done.stderr.splitlines()) == 1


def test_a_part_that_dies_takes_everything_down_and_leaves_its_last_word(scratch: Path) -> None:
    code = "import sys; sys.exit('Error: no such luck')"
    broken = Part("broken", lambda _: Command((tool("python"), "-c", code)), lambda _: "does not answer")
    told: list[str] = []
    with pytest.raises(UserError) as caught:
        lifecycle.up(
            Settings(home=scratch), lambda part, what: told.append(what), chosen=lambda s: (*some("triton")(s), broken)
        )
    message = str(caught.value)
    assert message.startswith("broken dies as soon as it is started; its last word: Error: no such luck")
    assert str(scratch / "log" / "broken.log") in message
    assert message.endswith("Everything that had been started was stopped")
    assert marked(scratch) == {}


def test_a_part_that_never_answers_is_given_up_at_its_limit(scratch: Path) -> None:
    mute = Part("mute", lambda _: Command((tool("sleep"), "600")), lambda _: "does not answer", start_limit=1.0)
    with pytest.raises(UserError) as told:
        lifecycle.up(Settings(home=scratch), quietly, chosen=lambda _: (mute,))
    said = re.match(r"mute does not answer (\d+) s after its start; its last word: it wrote nothing", str(told.value))
    assert said is not None
    assert int(said[1]) >= 1
    assert marked(scratch) == {}


def test_up_mends_what_is_missing_and_what_hangs(scratch: Path) -> None:
    bring_up(scratch, "s3", "triton")
    supervisor = Supervisor(scratch)
    supervisor.stop("s3")
    until(lambda: supervisor.infos()["s3"].pid == 0)
    triton = supervisor.infos()["triton"].pid
    suspend(triton)
    done = bring_up(scratch, "s3", "triton")
    assert sorted(done.started) == ["s3", "triton"]
    assert supervisor.infos()["triton"].pid != triton
    assert bring_up(scratch, "s3", "triton").already


def test_up_leaves_a_part_alone_whose_answer_came_late(scratch: Path) -> None:
    bring_up(scratch, "triton")
    (triton,) = some("triton")(Settings())
    late = ["does not answer", "does not answer"]
    slow = dataclasses.replace(triton, probe=lambda plan: late.pop() if late else triton.probe(plan))
    done = lifecycle.up(Settings(home=scratch), quietly, chosen=lambda _: (slow,))
    assert (done.already, done.started, late) == (True, [], [])


def test_a_deep_home_of_odd_characters(tmp_path: Path) -> None:
    home = tmp_path / ("deep %s " * 8) / "a #home; 'with' odd ü\"chars"
    try:
        bring_up(home, "s3", "triton")
        assert not socket_path(home).is_relative_to(home)
        assert sorted(marked(home)) == ["s3", SUPERVISOR, "triton"]
    finally:
        assert lifecycle.down(Settings(home=home), quietly) == ["s3", "triton"]
    assert marked(home) == {}


def test_two_ups_of_one_home_do_not_race(scratch: Path) -> None:
    code = (
        "import sys, pathlib\nfrom infra.settings import Settings\nfrom infra.stack import lifecycle, parts\n"
        "chosen = lambda s: tuple(p for p in parts.PARTS if p.name == 'triton')\n"
        "done = lifecycle.up(Settings(home=pathlib.Path(sys.argv[1])), lambda *_: None, chosen=chosen)\n"
        "print(len(done.started))"
    )
    command = [tool("python"), "-c", code, str(scratch)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0].strip() for process in both) == ["0", "1"]
    assert len(marked(scratch)["triton"]) == 1
