"""The rollout's state machine: each move is a pure function from one slot state to the next, or refuses.

empty --adopt--> settled --start--> starting --to_shadow--> shadow --to_canary--> canary --promote--> settled

`abort` leads back to settled from starting, shadow and canary, and leaves stable as it was. `rollback` makes the
previous stable the stable again from any stage that has one, and drops a rollout under way.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from infra.ledger.entries import SlotState, Stage
from infra.ledger.errors import LedgerError
from serving.types import ReleaseId

Move = Callable[[SlotState], SlotState]


def _need(state: SlotState, wanted: Stage, to: str) -> None:
    if state.stage != wanted:
        raise LedgerError(f"slot {state.slot} is in stage {state.stage}, so it cannot {to} (that follows {wanted})")


def adopt(release: ReleaseId) -> Move:
    """A slot's first release becomes stable."""

    def move(state: SlotState) -> SlotState:
        if state.stage != "empty":
            raise LedgerError(
                f"slot {state.slot} has a stable release ({state.stable}); a later one comes in by gate and rollout"
            )
        return msgspec.structs.replace(state, stage="settled", stable=release)

    return move


def start(candidate: ReleaseId) -> Move:
    """Write down the intent to roll a candidate out."""

    def move(state: SlotState) -> SlotState:
        if state.stage == "empty":
            raise LedgerError(f"slot {state.slot} has no stable release yet: adopt its first one")
        if state.stage != "settled":
            raise LedgerError(
                f"slot {state.slot}: a rollout of {state.candidate} is under way (stage {state.stage}, "
                f"last touched by {state.holder}); abort it first",
                exit_code=3,
            )
        if candidate == state.stable:
            raise LedgerError(f"slot {state.slot}: {candidate} is the stable release already")
        return msgspec.structs.replace(state, stage="starting", candidate=candidate)

    return move


def to_shadow(state: SlotState) -> SlotState:
    """The candidate is loaded and warm; it gets copies of requests."""
    _need(state, "starting", "go to shadow")
    return msgspec.structs.replace(state, stage="shadow")


def to_canary(share_bp: int) -> Move:
    """The candidate answers `share_bp` basis points of the requests."""

    def move(state: SlotState) -> SlotState:
        _need(state, "shadow", "go to canary")
        if not 0 < share_bp <= 10_000:
            raise LedgerError(f"a canary's share is 1 to 10000 basis points, not {share_bp}")
        return msgspec.structs.replace(state, stage="canary", canary_bp=share_bp)

    return move


def promote(state: SlotState) -> SlotState:
    """The candidate becomes stable; the old stable stays loaded as fallback."""
    _need(state, "canary", "be promoted")
    return msgspec.structs.replace(
        state, stage="settled", stable=state.candidate, fallback=state.stable, candidate=None, canary_bp=0
    )


def abort(state: SlotState) -> SlotState:
    """Drop the candidate; stable answers on as before."""
    if state.candidate is None:
        raise LedgerError(f"slot {state.slot}: no rollout is under way")
    return msgspec.structs.replace(state, stage="settled", candidate=None, canary_bp=0)


def rollback(state: SlotState) -> SlotState:
    """The previous stable becomes stable again; what it replaces is dropped, and so is a rollout under way."""
    if state.fallback is None:
        raise LedgerError(f"slot {state.slot}: there is no previous stable release to go back to")
    return msgspec.structs.replace(
        state, stage="settled", stable=state.fallback, fallback=None, candidate=None, canary_bp=0
    )
