"""The rollout's state machine, walked at random on a real ledger: one stable always, none without a passing report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from infra.ledger import Ledger, LedgerError, ReleaseEntry, SlotState, moves
from infra.ledger.entries import Stage
from serving.types import ReleaseId
from tests.infra.ledger.helpers import add, report

SLOT = "synth-high"


def state(stage: Stage, **parts: Any) -> SlotState:
    return SlotState(slot=SLOT, stage=stage, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "move", "says"),
    [
        (state("settled", stable="a"), moves.adopt(ReleaseId("b")), "gate and rollout"),
        (state("empty"), moves.start(ReleaseId("b")), "adopt its first one"),
        (state("shadow", stable="a", candidate="b"), moves.start(ReleaseId("c")), "rollout of b is under way"),
        (state("settled", stable="a"), moves.start(ReleaseId("a")), "stable release already"),
        (state("settled", stable="a"), moves.to_shadow, "cannot go to shadow"),
        (state("starting", stable="a", candidate="b"), moves.to_canary(1), "cannot go to canary"),
        (state("shadow", stable="a", candidate="b"), moves.to_canary(0), "basis points"),
        (state("shadow", stable="a", candidate="b"), moves.promote, "cannot be promoted"),
        (state("settled", stable="a"), moves.abort, "no rollout is under way"),
        (state("settled", stable="a"), moves.rollback, "no previous stable"),
    ],
)
def test_a_move_out_of_turn_is_refused(before: SlotState, move: moves.Move, says: str) -> None:
    with pytest.raises(LedgerError, match=says):
        move(before)


def test_an_abort_leaves_the_routes_as_they_were() -> None:
    before = state("settled", stable="a", fallback="z")
    after = moves.abort(moves.to_canary(500)(moves.to_shadow(moves.start(ReleaseId("b"))(before))))
    assert after == before


def test_a_rollback_drops_a_rollout_under_way() -> None:
    before = state("canary", stable="a", fallback="z", candidate="b", canary_bp=9)
    assert moves.rollback(before) == state("settled", stable="z")


class Rollouts(RuleBasedStateMachine):
    """Anyone may do anything at any time; what the ledger lets through must keep the promises."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(f"sqlite:///{Path(self.folder.name) / 'ledger.db'}")
        self.ledger.migrate()
        self.releases: list[ReleaseEntry] = []
        self.passed: set[str] = set()
        self.adoptable: set[str] = set()
        self.was_stable: list[str] = []

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()

    def _release(self, pick: int) -> ReleaseEntry | None:
        return self.releases[pick % len(self.releases)] if self.releases else None

    def _try(self, move: moves.Move, kind: Any, release: str, token: int | None = None) -> bool:
        before = self.ledger.slot(SLOT)
        try:
            after = self.ledger.move(
                SLOT, move, kind=kind, release=ReleaseId(release), actor="t", reason="", token=token
            )
        except LedgerError:
            assert self.ledger.slot(SLOT) == before
            return False
        if after.stable is not None and after.stable != before.stable:
            self.was_stable.append(after.stable)
            if kind == "promote":
                assert after.stable in self.passed
            elif kind == "adopt":
                assert after.stable in self.adoptable
            else:
                assert after.stable in self.was_stable[:-1]
        return True

    @rule()
    def train(self) -> None:
        if len(self.releases) < 4:
            self.releases.append(add(self.ledger, str(len(self.releases))))

    @rule(pick=st.integers(0, 9), verdict=st.sampled_from(["pass", "fail", "inconclusive", "first"]))
    def gate(self, pick: int, verdict: Any) -> None:
        entry = self._release(pick)
        if entry is None:
            return
        self.passed.discard(entry.id)
        self.adoptable.discard(entry.id)
        if verdict == "first":
            report(self.ledger, entry, None)
            self.adoptable.add(entry.id)
            return
        scored: Any = {"score": verdict}
        report(
            self.ledger, entry, entry, verdict, {**dict.fromkeys(("integrity", "load", "latency"), "pass"), **scored}
        )
        if verdict == "pass":
            self.passed.add(entry.id)

    @rule(pick=st.integers(0, 9))
    def adopt(self, pick: int) -> None:
        if entry := self._release(pick):
            self._try(moves.adopt(entry.id), "adopt", entry.id)

    @rule(pick=st.integers(0, 9))
    def start(self, pick: int) -> None:
        if entry := self._release(pick):
            self._try(moves.start(entry.id), "start", entry.id)

    @rule(kind=st.sampled_from(["shadow", "canary", "promote", "abort"]), stale=st.booleans())
    def advance(self, kind: str, stale: bool) -> None:
        candidate = self.ledger.slot(SLOT).candidate
        if candidate is None:
            return
        move = {
            "shadow": moves.to_shadow, "canary": moves.to_canary(100), "promote": moves.promote, "abort": moves.abort
        }[kind]  # fmt: skip
        held = self.ledger.take(SLOT, "t")
        if stale:
            self.ledger.take(SLOT, "another")
            assert not self._try(move, kind, candidate, held.token)
        else:
            self._try(move, kind, candidate, held.token)

    @rule()
    def rollback(self) -> None:
        stable = self.ledger.slot(SLOT).stable
        if stable is not None:
            self._try(moves.rollback, "rollback", stable)

    @invariant()
    def one_stable_once_there_was_one(self) -> None:
        if not hasattr(self, "ledger"):
            return
        now = self.ledger.slot(SLOT)
        assert (now.stable is None) == (not self.was_stable)
        assert now.stable == (self.was_stable[-1] if self.was_stable else None)
        route = self.ledger.route_table().slots.get(SLOT)  # type: ignore[call-overload]
        assert (route.stable if route else None) == now.stable
        assert now.candidate not in {now.stable} - {None}


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
