"""Rollout: starting -> shadow -> canary -> stable, one transition a tick; rollback and abort at any time.

The ledger is the authority. Every transition is fenced by the slot's token and committed before the routes are
written, so a tick may be killed anywhere: the next one, or the sidecar, writes the routes that the ledger says.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

import msgspec

from flows.bring import Unfit, bring, loaded
from flows.guards import Finding, Pace, judge
from infra.ledger import Fenced, GateEntry, Ledger, LedgerError, ReleaseEntry, SlotState, moves, open_ledger
from infra.ledger.entries import Kind, Stage
from infra.routes import publish_routes
from infra.settings import Settings
from infra.traffic import reading as traffic
from serving.errors import UserError
from serving.traffic.records import Role
from serving.types import ReleaseId

_log = logging.getLogger(__name__)


class Tick(msgspec.Struct, frozen=True):
    """What one tick did."""

    slot: str
    before: Stage
    after: Stage
    release: str | None
    """The release the rollout is, or was, about."""
    stable: str | None
    reason: str
    finding: Finding | None = None

    @property
    def moved(self) -> bool:
        """Whether a transition was made."""
        return self.before != self.after

    @property
    def held(self) -> bool:
        """Whether a rollout is under way and did not get further."""
        return not self.moved and self.after not in {"empty", "settled"}

    @property
    def aborted(self) -> bool:
        """Whether this tick dropped the candidate."""
        return self.moved and self.after == "settled" and self.release != self.stable

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**msgspec.to_builtins(self), "moved": self.moved}


def adopt(settings: Settings, slot: str, release: str | None = None, *, actor: str = "operator") -> Tick:
    """Make a slot's first release stable: every check that needs no champion must have passed; loads and warms it."""
    with closing(open_ledger(settings)) as ledger:
        state = ledger.slot(slot)
        if state.stage != "empty":
            moves.adopt(ReleaseId(""))(state)  # says that the slot has a stable release
        entry = _named(ledger, slot, release) if release else _newest_gated(ledger, slot)
        bring(settings, entry)
        after = ledger.move(
            slot, moves.adopt(entry.id), kind="adopt", release=entry.id, actor=actor, reason="the slot's first release"
        )
        _publish(settings, ledger)
        _follow(settings, after)
        return Tick(slot, "empty", after.stage, entry.id, after.stable, "the slot's first release is stable")


def start(
    settings: Settings, slot: str, release: str | None = None, *, actor: str = "operator", again: bool = False
) -> Tick:
    """Write the intent to roll a release out; by default the newest whose gate report passes against today's stable.

    Raises LedgerError when its report does not pass (exit code 3 when inconclusive), or is against another stable, or
    when the release was aborted or rolled back before and `again` is not set.
    """
    with closing(open_ledger(settings)) as ledger:
        state = ledger.slot(slot)
        entry = _named(ledger, slot, release) if release else _newest_passing(ledger, state)
        move = moves.start(entry.id)
        move(state)  # the state machine's own refusals come first
        _needs_pass(ledger, state, entry)
        if not again:
            _not_twice(ledger, slot, entry)
        after = ledger.move(slot, move, kind="start", release=entry.id, actor=actor, reason="its gate report passes")
        return Tick(slot, state.stage, after.stage, entry.id, after.stable, "the next tick loads and warms it")


def start_if_passed(settings: Settings, slot: str, release: str, *, actor: str) -> str:
    """Start the rollout of a release whose gate passed, unless something stands in the way; says what was done."""
    try:
        return start(settings, slot, release, actor=actor).reason
    except LedgerError as error:
        return f"no rollout: {error}"


def tick(settings: Settings, slot: str, *, pace: Pace | None = None, actor: str = "tick") -> Tick:
    """Make at most one transition of the slot's rollout. Safe to repeat, and to kill at any point."""
    with closing(open_ledger(settings)) as ledger:
        state = ledger.slot(slot)
        _publish(settings, ledger)  # repairs what a killed tick left undone
        if state.candidate is not None:
            state = ledger.take(slot, actor)
        if state.candidate is None:
            _follow(settings, state)
            reason = "no release is stable yet" if state.stage == "empty" else "no rollout is under way"
            return Tick(slot, state.stage, state.stage, None, state.stable, reason)
        try:
            done = _advance(settings, ledger, state, pace or Pace(), actor)
        except Fenced as lost:
            return Tick(slot, state.stage, state.stage, state.candidate, state.stable, str(lost))
        _publish(settings, ledger)
        if done.stable != state.stable:
            _follow(settings, ledger.slot(slot))
        return done


def abort(settings: Settings, slot: str, *, actor: str = "operator", reason: str = "asked for") -> Tick:
    """Drop the rollout under way; stable answers on as before."""
    with closing(open_ledger(settings)) as ledger:
        moves.abort(ledger.slot(slot))
        before = ledger.take(slot, actor)
        after = ledger.move(
            slot, moves.abort, kind="abort", release=_candidate(before), actor=actor, reason=reason, token=before.token
        )
        _publish(settings, ledger)
        return Tick(slot, before.stage, after.stage, before.candidate, after.stable, f"aborted: {reason}")


def rollback(settings: Settings, slot: str, *, actor: str = "operator", reason: str = "asked for") -> Tick:
    """Make the previous stable the stable again: a pointer flip, for the previous stable is kept loaded.

    Should Triton have lost it, it is loaded first; should Triton not answer, the sidecar loads it when it does.
    """
    with closing(open_ledger(settings)) as ledger:
        moves.rollback(ledger.slot(slot))
        before = ledger.take(slot, actor)
        moves.rollback(before)
        _still_loaded(settings, ledger, before)
        after = ledger.move(
            slot, moves.rollback, kind="rollback", release=before.stable or ReleaseId(""), actor=actor, reason=reason,
            token=before.token,
        )  # fmt: skip
        _publish(settings, ledger)
        return Tick(slot, before.stage, after.stage, before.stable, after.stable, f"rolled back: {reason}")


def status(settings: Settings, slot: str) -> dict[str, Any]:
    """The slot's state and all its transitions, JSON-able."""
    with closing(open_ledger(settings)) as ledger:
        state = ledger.slot(slot)
        return {**msgspec.to_builtins(state), "transitions": msgspec.to_builtins(ledger.transitions(slot))}


# one transition


def _advance(settings: Settings, ledger: Ledger, state: SlotState, pace: Pace, actor: str) -> Tick:
    candidate = _candidate(state)

    def make(move: moves.Move, kind: Kind, reason: str, finding: Finding | None = None) -> Tick:
        after = ledger.move(
            state.slot, move, kind=kind, release=candidate, actor=actor, reason=reason, token=state.token
        )
        return Tick(state.slot, state.stage, after.stage, candidate, after.stable, reason, finding)

    if state.stage == "starting":
        try:
            bring(settings, ledger.release(candidate))
        except Unfit as bad:
            return make(moves.abort, "abort", str(bad))
        return make(moves.to_shadow, "shadow", "loaded and warm")
    finding = _look(settings, state, candidate, pace)
    if finding.word == "abort":
        return make(moves.abort, "abort", finding.reason, finding)
    if finding.word == "hold":
        return Tick(state.slot, state.stage, state.stage, candidate, state.stable, finding.reason, finding)
    if state.stage == "shadow":
        return make(moves.to_canary(pace.canary_bp), "canary", finding.reason, finding)
    return make(moves.promote, "promote", finding.reason, finding)


def _look(settings: Settings, state: SlotState, candidate: ReleaseId, pace: Pace) -> Finding:
    """What the guards say of the candidate since its stage began; a candidate that Triton has lost is held."""
    role: Role = "shadow" if state.stage == "shadow" else "canary"
    need = pace.shadow_answers if role == "shadow" else pace.canary_answers
    records = [r for r in traffic.records(settings, since=state.since) if r.slot == state.slot]
    finding = judge(records, candidate=candidate, stable=str(state.stable), role=role, need=need, pace=pace)
    if finding.word == "go" and candidate not in loaded(settings):
        return msgspec.structs.replace(finding, word="hold", reason="Triton has not loaded the candidate now")
    return finding


def _still_loaded(settings: Settings, ledger: Ledger, state: SlotState) -> None:
    """Bring the fallback back if Triton answers and has lost it."""
    try:
        lost = state.fallback is not None and state.fallback not in loaded(settings)
    except UserError as error:
        _log.warning("rolling back without Triton's word: %s", error)
        return
    if lost:
        bring(settings, ledger.release(str(state.fallback)))


def _candidate(state: SlotState) -> ReleaseId:
    if state.candidate is None:
        raise LedgerError(f"slot {state.slot}: no rollout is under way")
    return state.candidate


# which release


def _named(ledger: Ledger, slot: str, name: str) -> ReleaseEntry:
    entry = ledger.release(name)
    if entry.slot != slot:
        raise LedgerError(f"{entry.id} is a release of slot {entry.slot}, not of {slot}", exit_code=2)
    return entry


def _newest_gated(ledger: Ledger, slot: str) -> ReleaseEntry:
    for entry in reversed(ledger.releases(slot)):
        if ledger.latest_gate(entry.sha256) is not None:
            return entry
    raise LedgerError(f"slot {slot} has no release with a gate report: 'headframe gate --slot {slot}' comes first")


def _newest_passing(ledger: Ledger, state: SlotState) -> ReleaseEntry:
    """The newest release; its report is judged by the caller, which says what is wrong with it."""
    entries = [entry for entry in ledger.releases(state.slot) if entry.id not in state.live]
    if not entries:
        raise LedgerError(f"slot {state.slot} has no release besides the live ones: train one first")
    return next((e for e in reversed(entries) if _passes(ledger, state, e)), entries[-1])


def _passes(ledger: Ledger, state: SlotState, entry: ReleaseEntry) -> bool:
    gate = ledger.latest_gate(entry.sha256)
    return gate is not None and gate.verdict == "pass" and _against(ledger, gate) == state.stable


def _against(ledger: Ledger, gate: GateEntry) -> ReleaseId | None:
    return ledger.release(gate.champion_sha256).id if gate.champion_sha256 is not None else None


def _needs_pass(ledger: Ledger, state: SlotState, entry: ReleaseEntry) -> None:
    gate = ledger.latest_gate(entry.sha256)
    if gate is None:
        raise LedgerError(f"{entry.id} has no gate report: 'headframe gate --slot {state.slot}' comes first")
    if gate.verdict != "pass":
        code = 3 if gate.verdict == "inconclusive" else 1
        raise LedgerError(f"{entry.id}: its newest gate report says {gate.verdict}, not pass", exit_code=code)
    champion = _against(ledger, gate)
    if champion != state.stable:
        raise LedgerError(
            f"{entry.id}: its gate report is against {champion}, and {state.stable} is stable now; gate it again"
        )


def _not_twice(ledger: Ledger, slot: str, entry: ReleaseEntry) -> None:
    for change in reversed(ledger.transitions(slot)):
        if change.release == entry.id and change.kind in {"abort", "rollback"}:
            word = "aborted" if change.kind == "abort" else "rolled back"
            raise LedgerError(f"{entry.id} was {word} before ({change.reason}); --again starts it all the same")


# what follows the ledger


def _publish(settings: Settings, ledger: Ledger) -> None:
    publish_routes(ledger, settings.paths.routes)


def _follow(settings: Settings, state: SlotState) -> None:
    """Let MLflow's alias ``champion`` name the stable release: best effort, and tried again at every tick."""
    from infra import tracking

    if state.stable is None:
        return
    try:
        tracking.follow(settings, state.slot, tracking.CHAMPION, state.stable)
    except UserError as error:
        _log.warning("alias champion of %s left as it is: %s", state.slot, error)
