from __future__ import annotations

from pathlib import Path

import pytest

from infra.ledger import moves, open_ledger
from infra.settings import Settings
from infra.unloading import KEEP_S, Unloader
from serving.subnets.registry import FACTORIES, make, specs
from serving.types import ReleaseId
from serving.workers.acks import Ack
from tests.infra.ledger.helpers import add, report

A, B, C = (ReleaseId(f"synth-low-{letter * 12}") for letter in "abc")
SLOTS = {"synth-low"}


def ack(drained: int, *held: ReleaseId) -> Ack:
    return Ack(pid=1, begun=1, parent=1, beat=0.0, routes=9, drained=drained, held=held)


class Time:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def unloader(tmp_path: Path, time: Time) -> Unloader:
    return Unloader(Settings(home=tmp_path), time)


def test_what_is_needed_or_not_ours_stays(unloader: Unloader, time: Time) -> None:
    loaded = {A, B, "somebody-elses", "synth-high-aaaaaaaaaaaa"}
    assert unloader.due(loaded, {A, B}, SLOTS, 5, []) == []
    time.at += KEEP_S
    assert unloader.due(loaded, {A, B}, SLOTS, 5, []) == []


def test_what_left_the_routes_goes_once_its_time_is_up_and_every_worker_drained(unloader: Unloader, time: Time) -> None:
    assert unloader.due({A, B}, {A}, SLOTS, 5, [ack(5)]) == []
    time.at += KEEP_S - 1
    assert unloader.due({A, B}, {A}, SLOTS, 5, [ack(5)]) == []
    time.at += 1
    assert unloader.due({A, B}, {A}, SLOTS, 5, [ack(5), ack(4)]) == []  # one still has a call on it
    assert unloader.due({A, B}, {A}, SLOTS, 5, [ack(5), ack(6)]) == [B]


def test_what_was_needed_again_in_between_waits_anew(unloader: Unloader, time: Time) -> None:
    unloader.due({A, B}, {A}, SLOTS, 5, [])
    time.at += KEEP_S
    assert unloader.due({A, B}, {A, B}, SLOTS, 6, []) == []
    assert unloader.due({A, B}, {A}, SLOTS, 7, []) == []
    time.at += KEEP_S
    assert unloader.due({A, B}, {A}, SLOTS, 7, []) == [B]


def test_what_a_callers_round_began_with_stays_until_it_is_over(unloader: Unloader, time: Time) -> None:
    for _ in range(3):
        assert unloader.due({A, B}, {A}, SLOTS, 5, [ack(5), ack(5, B)]) == []
        time.at += KEEP_S
    assert unloader.due({A, B}, {A}, SLOTS, 5, [ack(5), ack(5)]) == []
    time.at += KEEP_S
    assert unloader.due({A, B}, {A}, SLOTS, 5, [ack(5), ack(5)]) == [B]


def test_where_no_worker_is_heard_time_alone_decides(unloader: Unloader, time: Time) -> None:
    assert unloader.due({A}, set(), SLOTS, 5, []) == []
    time.at += KEEP_S
    assert unloader.due({A}, set(), SLOTS, 5, []) == [A]


def test_no_routes_deadline_is_longer() -> None:
    routes = [route for subnet in make(specs(list(FACTORIES))) for route in subnet.routes]
    assert len(routes) >= len(FACTORIES)
    assert max(route.max_timeout for route in routes) < KEEP_S


def test_stable_previous_stable_and_candidate_are_needed(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    ledger = open_ledger(settings)
    first, second, third = (add(ledger, name) for name in ("first", "second", "third"))
    report(ledger, first, None)
    report(ledger, second, first)
    report(ledger, third, second)
    slot = first.slot

    def move(what: moves.Move, kind: str, release: ReleaseId) -> None:
        ledger.move(slot, what, kind=kind, release=release, actor="test", reason="test")  # type: ignore[arg-type]

    move(moves.adopt(first.id), "adopt", first.id)
    for what, kind in (
        (moves.start(second.id), "start"), (moves.to_shadow, "shadow"), (moves.to_canary(100), "canary"),
        (moves.promote, "promote"),
    ):  # fmt: skip
        move(what, kind, second.id)
    unloader = Unloader(settings)
    assert unloader._needed() == ({first.id, second.id}, {slot}, 5)
    move(moves.start(third.id), "start", third.id)  # it is being loaded, and no route names it yet
    assert unloader._needed() == ({first.id, second.id, third.id}, {slot}, 6)
    move(moves.abort, "abort", third.id)
    move(moves.rollback, "rollback", second.id)
    assert unloader._needed() == ({first.id}, {slot}, 8)
    ledger.close()
