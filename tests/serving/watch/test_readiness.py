"""Whether the miner can answer: every fact that /readyz rests on, one at a time."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from serving.state import NeuronTable, Pause, PriceBook, RouteTable, SlotRoute, write_state
from serving.types import ReleaseId, SlotName
from serving.watch.readiness import Readiness, State
from tests.serving.processes import config_of

TABLE = RouteTable(1, 0.0, {SlotName("tiny"): SlotRoute(stable=ReleaseId("tiny-a"))})


@pytest.fixture
def readiness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Readiness:
    """Everything is as it should be."""
    now = time.time()
    write_state(tmp_path / "routes.json", RouteTable(1, now, TABLE.slots))
    write_state(tmp_path / "neurons.json", NeuronTable(1, now, []))
    write_state(tmp_path / "prices.json", PriceBook(now, now, {}))
    state = State()
    state.pids, state.taking = [1, 2], lambda: 2
    config = config_of(tmp_path, "127.0.0.1:1", pause=str(tmp_path / "pause.json"))
    made = Readiness(config, state)
    monkeypatch.setattr(made, "_ask", lambda release: release == "tiny-a")
    made.keep_files()
    return made


def _no_worker_takes(readiness: Readiness) -> None:
    readiness.state.taking = lambda: 0


def _draining(readiness: Readiness) -> None:
    readiness.state.draining = True


def _paused(readiness: Readiness) -> None:
    write_state(Path(str(readiness.config.pause)), Pause("a test", 0.0))


def _old_neurons(readiness: Readiness) -> None:
    write_state(Path(readiness.config.miners[0].neurons), NeuronTable(1, time.time() - 7200, []))


def _neurons_of_another_subnet(readiness: Readiness) -> None:
    write_state(Path(readiness.config.miners[0].neurons), NeuronTable(2, time.time(), []))


def _no_routes(readiness: Readiness) -> None:
    Path(readiness.config.routes).unlink()


def _release_that_is_not_loaded(readiness: Readiness) -> None:
    slots = {SlotName("tiny"): SlotRoute(stable=ReleaseId("tiny-b"))}
    write_state(Path(readiness.config.routes), RouteTable(1, time.time(), slots))


def test_all_is_well(readiness: Readiness) -> None:
    assert readiness.report()["ready"]


@pytest.mark.parametrize(
    "spoil",
    [
        _no_worker_takes, _draining, _paused, _old_neurons, _neurons_of_another_subnet, _no_routes,
        _release_that_is_not_loaded,
    ],
)  # fmt: skip
def test_one_fact_that_does_not_hold_is_enough(readiness: Readiness, spoil: Callable[[Readiness], None]) -> None:
    spoil(readiness)
    assert not readiness.report()["ready"]


def test_workers_that_start_answer_nobody_yet(readiness: Readiness) -> None:
    readiness.state.taking = lambda: 0
    assert readiness.report()["workers"] == {"want": 2, "have": 2, "taking": 0, "restarts": 0}
    assert not readiness.report()["ready"]
    readiness.state.left_over = [3]  # of a parent that was killed: they answer until ours are ready
    assert readiness.report()["ready"]


def test_a_table_of_another_subnet_is_not_kept_and_says_what_it_is(readiness: Readiness) -> None:
    _neurons_of_another_subnet(readiness)
    readiness.keep_files()
    assert readiness.report()["files"]["neurons"]["problem"] == "neurons.json cannot be read (OtherSubnet)"
    assert b'"netuid":1' in readiness.config.kept("neurons").read_bytes()


def test_a_silent_triton_is_asked_once_for_all_slots_and_keeps_nobody_from_the_files(
    readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent looks at the files in the loop in which it looks after its workers."""
    asked, waiting, answer = [], threading.Event(), threading.Event()

    class TimedOut(grpc.RpcError):  # type: ignore[misc]
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.DEADLINE_EXCEEDED

    class Silent:
        def ModelReady(self, request: object, timeout: float) -> None:
            asked.append(request)
            waiting.set()
            assert answer.wait(60)
            raise TimedOut

    monkeypatch.setattr(readiness, "_ask", functools.partial(Readiness._ask, readiness))
    monkeypatch.setattr("serving.watch.readiness.ASK_TRITON_S", 3600.0)
    readiness._stub = Silent()
    with ThreadPoolExecutor(1) as pool:
        ready = pool.submit(lambda: [readiness._release_ready(ReleaseId(f"tiny-{name}")) for name in "abc"])
        assert waiting.wait(60)
        readiness.keep_files()
        readiness.ages()
        answer.set()
        assert ready.result() == [False, False, False]
    assert len(asked) == 1
