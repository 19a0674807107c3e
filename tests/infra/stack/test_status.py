from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from infra.settings import Settings
from infra.stack.status import Component, Slots, State, _look_for_releases, healthy, judge, status
from infra.stack.supervisor import Info
from serving.clock import Clock
from serving.state import Canary, RouteTable, SlotRoute, write_state
from serving.types import ReleaseId, SlotName

LIMIT = 90.0


def info(statename: str, up_for: int = 10) -> Info:
    return Info(name="s3", statename=statename, pid=1, start=1000, now=1000 + up_for)


@pytest.mark.parametrize(
    ("supervised", "up_for", "has_processes", "answer", "expected"),
    [
        ("RUNNING", 500, True, None, "running"),
        ("STARTING", 1, True, None, "running"),  # it answers, so it runs
        ("RUNNING", 10, True, "does not answer", "starting"),
        ("RUNNING", 91, True, "does not answer", "unready"),  # hung
        ("RUNNING", 500, False, "has no process", "stopped"),  # died just now
        ("STARTING", 1, True, "does not answer", "starting"),
        ("STARTING", 1, False, "has no process", "starting"),
        ("EXITED", 1, False, "has no process", "starting"),  # is about to be started again
        ("BACKOFF", 1, False, "has no process", "failed"),
        ("BACKOFF", 1, True, None, "failed"),  # somebody else answers on its port
        ("FATAL", 1, False, "has no process", "failed"),
        ("STOPPED", 1, False, "has no process", "stopped"),
        ("STOPPING", 500, True, None, "unready"),
        (None, 0, True, None, "running"),  # the supervisor is dead, the part answers on
        (None, 0, True, "does not answer", "unready"),
        (None, 0, False, "has no process", "stopped"),
    ],
)
def test_the_truth_table(
    supervised: str | None, up_for: int, has_processes: bool, answer: str | None, expected: State
) -> None:
    found = info(supervised, up_for) if supervised else None
    assert judge(found, has_processes, answer, LIMIT) == expected


def test_the_document_is_complete_when_nothing_ever_ran(tmp_path: Path) -> None:
    document = status(Settings(home=tmp_path / "never"))
    assert document["profile"] == "local"
    assert document["home"] == str(tmp_path / "never")
    assert document["gateway"] == {
        "url": None, "private_url": None, "hotkey": None, "miners": None, "paused": False, "reason": None,
    }  # fmt: skip
    assert [document[part] for part in ("triton", "prefect", "mlflow", "s3", "metrics")] == [
        {"grpc": None}, {"url": None}, {"url": None}, {"endpoint": None}, {"url": None},
    ]  # fmt: skip
    nothing = {"stable": None, "canary": None, "shadow": None}
    assert document["slots"] == {"synth-high": nothing, "synth-low": nothing}
    assert set(document["components"]) == {"s3", "triton", "mlflow", "prefect", "sidecar", "gateway", "flows"}
    for part in document["components"].values():
        assert (part["state"], part["pids"], part["restarts"]) == ("stopped", [], None)
    assert not healthy(document)
    assert not (tmp_path / "never").exists()


def test_a_part_that_is_elsewhere_keeps_its_address(tmp_path: Path) -> None:
    document = status(Settings(home=tmp_path, mlflow_url="http://there:5000"))
    assert document["mlflow"] == {"url": "http://there:5000"}
    assert "mlflow" not in document["components"]


def test_slots_and_clock_are_read_from_their_files(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    route = SlotRoute(ReleaseId("synth-low-a"), Canary(ReleaseId("synth-low-b"), 500), ReleaseId("synth-low-c"))
    write_state(settings.paths.routes, RouteTable(3, 0.0, {SlotName("synth-low"): route}))
    Clock(settings.paths.clock).set(1_750_000_000.0, rate=0.0)
    document = status(settings)
    assert document["slots"]["synth-low"] == {"stable": "synth-low-a", "canary": "synth-low-b", "shadow": "synth-low-c"}
    assert document["slots"]["synth-high"]["stable"] is None
    assert (document["clock"]["subnet"], document["clock"]["recorded"]) == (1_750_000_000.0, True)
    assert msgspec.json.encode(document)


def test_healthy_needs_every_part_and_the_supervisor() -> None:
    good = {"supervisor": {"state": "running"}, "components": {"s3": {"state": "running"}}}
    assert healthy(good)
    assert not healthy(good | {"supervisor": {"state": "stopped"}})
    assert not healthy(good | {"components": {"s3": {"state": "starting"}}})


@pytest.mark.parametrize(
    ("loaded", "state", "reason"),
    [
        ({"synth-high-a", "synth-low-b"}, "running", None),
        ({"synth-low-b", "synth-low-c"}, "unready", "has not loaded synth-high-a yet"),
        (set(), "unready", "has not loaded synth-high-a, synth-low-b yet"),
    ],
)
def test_triton_runs_only_with_the_stable_releases(
    loaded: set[str], state: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.triton.Triton.loaded", lambda self: loaded)
    triton = Component("running", [1], 0, None)
    slots: Slots = {
        "synth-high": {"stable": "synth-high-a", "canary": None, "shadow": "synth-high-z"},
        "synth-low": {"stable": "synth-low-b", "canary": None, "shadow": None},
        "poker44": {"stable": None, "canary": None, "shadow": None},
    }

    _look_for_releases(triton, "127.0.0.1:1", slots)

    assert (triton.state, triton.reason) == (state, reason)
