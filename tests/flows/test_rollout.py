"""Rollouts on a real ledger and a real traffic record; only Triton and S3 are stood in for, at the edge."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flows import rollout
from flows.bring import Unfit
from flows.guards import Pace
from infra.ledger import Ledger, LedgerError, ReleaseEntry, open_ledger
from infra.routes import publish_routes
from infra.settings import Settings
from serving.errors import UserError
from serving.state import RouteTable, SlotRoute
from tests.flows.traffic import answer, write
from tests.infra.ledger.helpers import add, report

SLOT = "synth-high"
PACE = Pace(shadow_answers=2, canary_answers=2, canary_bp=1_500)


class Edge:
    """Stands for Triton, with the calls that reached it; it can fail the n-th call of anything."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.unfit: set[str] = set()
        self.calls: list[str] = []
        self.fail_at: int | None = None

    def count(self, name: str) -> None:
        self.calls.append(name)
        if self.fail_at == len(self.calls):
            raise UserError(f"{name} is down")

    def bring(self, settings: Settings, entry: ReleaseEntry) -> None:
        self.count("bring")
        if entry.id in self.unfit:
            raise Unfit("its answers are not finite")
        self.loaded.add(entry.id)

    def look(self, settings: Settings) -> set[str]:
        self.count("loaded")
        return set(self.loaded)


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch) -> Edge:
    made = Edge()

    def counted(*args: Any) -> Any:
        made.count("publish")
        return publish_routes(*args)

    monkeypatch.setattr(rollout, "bring", made.bring)
    monkeypatch.setattr(rollout, "loaded", made.look)
    monkeypatch.setattr(rollout, "publish_routes", counted)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with closing(open_ledger(settings)) as made:
        yield made


def live(settings: Settings, ledger: Ledger, edge: Edge) -> tuple[str, str]:
    """A stable release, and a second one whose gate passed against it."""
    first = add(ledger, "first")
    report(ledger, first, None)
    rollout.adopt(settings, SLOT)
    second = add(ledger, "second")
    report(ledger, second, first)
    return first.id, second.id


def routes(settings: Settings) -> SlotRoute:
    table = msgspec.json.decode(settings.paths.routes.read_bytes(), type=RouteTable)
    return table.slots[SLOT]  # type: ignore[index]


def go(settings: Settings) -> rollout.Tick:
    return rollout.tick(settings, SLOT, pace=PACE)


def promoted(settings: Settings, ledger: Ledger, edge: Edge) -> tuple[str, str]:
    first, second = live(settings, ledger, edge)
    rollout.start(settings, SLOT)
    go(settings)
    write(settings.paths.traffic, answer(second, "shadow"), answer(second, "shadow"))
    go(settings)
    write(settings.paths.traffic, answer(second, "canary"), answer(second, "canary"))
    go(settings)
    return first, second


def test_from_the_gate_to_stable_one_transition_a_tick(settings: Settings, ledger: Ledger, edge: Edge) -> None:
    first, second = live(settings, ledger, edge)
    assert routes(settings) == SlotRoute(stable=first)  # type: ignore[arg-type]
    assert rollout.start(settings, SLOT).after == "starting"
    assert second not in edge.loaded

    assert go(settings).after == "shadow"
    assert second in edge.loaded
    assert routes(settings).shadow == second
    assert go(settings).held  # no traffic
    write(settings.paths.traffic, answer(second, "shadow"), answer(second, "shadow"), answer(first, "stable"))

    assert go(settings).after == "canary"
    canary = routes(settings).canary
    assert canary is not None
    assert (canary.release, canary.share_bp) == (second, 1_500)
    assert go(settings).held  # shadow answers do not count here
    write(settings.paths.traffic, answer(second, "canary"), answer(second, "canary"))

    assert go(settings).after == "settled"
    assert routes(settings) == SlotRoute(stable=second, fallback=first)  # type: ignore[arg-type]
    assert not go(settings).moved
    kinds = [change.kind for change in ledger.transitions(SLOT)]
    assert kinds == ["adopt", "start", "shadow", "canary", "promote"]


def test_a_rollback_flips_back_and_loads_nothing(settings: Settings, ledger: Ledger, edge: Edge) -> None:
    first, second = promoted(settings, ledger, edge)
    edge.calls.clear()
    done = rollout.rollback(settings, SLOT, actor="ann", reason="worse")
    assert done.stable == first
    assert routes(settings) == SlotRoute(stable=first)  # type: ignore[arg-type]
    assert "bring" not in edge.calls
    last = ledger.transitions(SLOT)[-1]
    assert (last.kind, last.release, last.actor, last.reason) == ("rollback", second, "ann", "worse")
    with pytest.raises(LedgerError, match="no previous stable"):
        rollout.rollback(settings, SLOT)


def test_a_rollback_brings_back_what_triton_lost_and_does_not_wait_for_a_dead_one(
    settings: Settings, ledger: Ledger, edge: Edge
) -> None:
    first, _ = promoted(settings, ledger, edge)
    edge.loaded.discard(first)
    rollout.rollback(settings, SLOT)
    assert first in edge.loaded
    other = add(ledger, "third")
    report(ledger, other, ledger.release(first))
    rollout.start(settings, SLOT, other.id)
    for role in ("shadow", "canary", "canary"):
        go(settings)
        write(settings.paths.traffic, *(answer(other.id, role) for _ in range(2)))
    assert ledger.slot(SLOT).stable == other.id
    edge.calls.clear()
    edge.fail_at = 1  # Triton does not answer
    assert rollout.rollback(settings, SLOT).stable == first


def test_a_rolled_back_release_starts_again_only_when_told_so(settings: Settings, ledger: Ledger, edge: Edge) -> None:
    _, second = promoted(settings, ledger, edge)
    rollout.rollback(settings, SLOT, reason="worse")
    with pytest.raises(LedgerError, match=r"was rolled back before \(worse\); --again"):
        rollout.start(settings, SLOT, second)
    assert rollout.start(settings, SLOT, second, again=True).after == "starting"


@pytest.mark.parametrize("code", ["invalid", "error"])
@pytest.mark.parametrize("role", ["shadow", "canary"])
def test_a_bad_answer_aborts_at_once_and_stable_stays(
    settings: Settings, ledger: Ledger, edge: Edge, role: Any, code: str
) -> None:
    first, second = live(settings, ledger, edge)
    rollout.start(settings, SLOT)
    go(settings)
    if role == "canary":
        write(settings.paths.traffic, answer(second, "shadow"), answer(second, "shadow"))
        go(settings)
    write(settings.paths.traffic, answer(first, "stable"), answer(second, role, code=code))
    done = go(settings)
    assert done.aborted
    assert {"invalid": "broke the validator's rules", "error": "failed"}[code] in done.reason
    assert routes(settings) == SlotRoute(stable=first)  # type: ignore[arg-type]


def test_a_release_that_does_not_load_is_dropped_and_the_ledger_says_why(
    settings: Settings, ledger: Ledger, edge: Edge
) -> None:
    first, second = live(settings, ledger, edge)
    edge.unfit.add(second)
    rollout.start(settings, SLOT)
    assert go(settings).aborted
    assert routes(settings) == SlotRoute(stable=first)  # type: ignore[arg-type]
    assert ledger.transitions(SLOT)[-1].reason == "its answers are not finite"


def test_a_candidate_that_triton_lost_is_held(settings: Settings, ledger: Ledger, edge: Edge) -> None:
    _, second = live(settings, ledger, edge)
    rollout.start(settings, SLOT)
    go(settings)
    write(settings.paths.traffic, answer(second, "shadow"), answer(second, "shadow"))
    edge.loaded.discard(second)
    assert go(settings).reason == "Triton has not loaded the candidate now"


def test_only_a_passing_report_against_todays_stable_starts(settings: Settings, ledger: Ledger, edge: Edge) -> None:
    first = add(ledger, "first")
    with pytest.raises(LedgerError, match="no stable release yet"):
        rollout.start(settings, SLOT, first.id)
    report(ledger, first, None)
    rollout.adopt(settings, SLOT)
    second = add(ledger, "second")
    with pytest.raises(LedgerError, match="no gate report"):
        rollout.start(settings, SLOT)
    report(ledger, second, first, "inconclusive", {"score": "inconclusive"})
    with pytest.raises(LedgerError, match="inconclusive") as held:
        rollout.start(settings, SLOT)
    assert held.value.exit_code == 3
    report(ledger, second, first, "fail", {"score": "fail"})
    with pytest.raises(LedgerError, match="fail") as bad:
        rollout.start(settings, SLOT)
    assert bad.value.exit_code == 1
    report(ledger, second, second)
    with pytest.raises(LedgerError, match="gate it again"):
        rollout.start(settings, SLOT)
    with pytest.raises(LedgerError, match="is a release of slot") as wrong:
        rollout.start(settings, "synth-low", second.id)
    assert wrong.value.exit_code == 2 or "no stable" in str(wrong.value)


def test_a_slot_is_adopted_once(settings: Settings, ledger: Ledger, edge: Edge) -> None:
    with pytest.raises(LedgerError, match="no release with a gate report"):
        rollout.adopt(settings, SLOT)
    live(settings, ledger, edge)
    with pytest.raises(LedgerError, match="gate and rollout"):
        rollout.adopt(settings, SLOT)


def test_a_promotion_that_another_overtakes_changes_nothing(
    settings: Settings, ledger: Ledger, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = live(settings, ledger, edge)
    rollout.start(settings, SLOT)

    def slow(settings: Settings, entry: ReleaseEntry) -> None:
        monkeypatch.setattr(rollout, "bring", edge.bring)
        assert rollout.tick(settings, SLOT, pace=PACE, actor="the quick one").after == "shadow"

    monkeypatch.setattr(rollout, "bring", slow)
    late = rollout.tick(settings, SLOT, pace=PACE, actor="the slow one")
    assert not late.moved
    assert "the quick one took it over" in late.reason
    assert [change.actor for change in ledger.transitions(SLOT)][-1] == "the quick one"
    assert ledger.slot(SLOT).candidate == second


def test_a_killed_tick_is_mended_by_the_next(settings: Settings, ledger: Ledger, edge: Edge) -> None:
    first, _ = live(settings, ledger, edge)
    settings.paths.routes.unlink()
    go(settings)
    assert routes(settings).stable == first


def whole_life(settings: Settings, second: str, attempt: Callable[[Callable[[], Any]], None]) -> None:
    """Start, shadow, canary, stable, rollback; every call may fail and is tried until it works."""
    attempt(lambda: rollout.start(settings, SLOT, second))
    for role in ("shadow", "canary"):
        attempt(lambda: go(settings))
        write(settings.paths.traffic, answer(second, role), answer(second, role))
    attempt(lambda: go(settings))
    attempt(lambda: rollout.rollback(settings, SLOT))


@pytest.mark.parametrize("nth", range(1, 14))
def test_any_call_may_fail_once_and_the_promises_hold(settings: Settings, ledger: Ledger, edge: Edge, nth: int) -> None:
    first, second = live(settings, ledger, edge)
    edge.calls.clear()
    edge.fail_at = nth

    def attempt(work: Callable[[], Any]) -> None:
        before = len(ledger.transitions(SLOT))
        try:
            work()
        except UserError:
            if len(ledger.transitions(SLOT)) == before:
                work()  # nothing was written, so it is simply done again
        state = ledger.slot(SLOT)
        assert state.stable in {first, second}
        assert state.stable in edge.loaded
        if state.stable == second:
            assert [c.kind for c in ledger.transitions(SLOT)][-1] == "promote"
        publish_routes(ledger, settings.paths.routes)  # as the sidecar does
        assert routes(settings).stable == state.stable

    whole_life(settings, second, attempt)
    assert ledger.slot(SLOT).stable == first
    kinds = [change.kind for change in ledger.transitions(SLOT)]
    assert kinds == ["adopt", "start", "shadow", "canary", "promote", "rollback"]


def test_two_ticks_at_once_make_one_transition(settings: Settings, ledger: Ledger, edge: Edge) -> None:
    live(settings, ledger, edge)
    rollout.start(settings, SLOT)
    barrier, results = threading.Barrier(2), []

    def run() -> None:
        barrier.wait()
        results.append(go(settings))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [c.kind for c in ledger.transitions(SLOT)] == ["adopt", "start", "shadow"]
    assert ledger.slot(SLOT).stage == "shadow"


def test_old_traffic_is_not_the_stages(settings: Settings, ledger: Ledger, edge: Edge) -> None:
    _, second = live(settings, ledger, edge)
    write(settings.paths.traffic, *(answer(second, "shadow", at=time.time() - 60) for _ in range(9)))
    rollout.start(settings, SLOT)
    go(settings)
    assert go(settings).held
