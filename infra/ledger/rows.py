"""From rows of the database to what the ledger tells, and back."""

from __future__ import annotations

from typing import Any

import msgspec

from infra.ledger.entries import GateEntry, ReleaseEntry, SlotState, TransitionEntry
from infra.ledger.models import GateRow, ReleaseRow, SlotRow, TransitionRow
from serving.state import Canary, SlotRoute
from serving.types import SlotName


def _values(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns}


def release_entry(row: ReleaseRow) -> ReleaseEntry:
    """A release as the ledger tells it."""
    return ReleaseEntry(**_values(row))


def gate_entry(row: GateRow) -> GateEntry:
    """A gate report as the ledger tells it."""
    return GateEntry(**_values(row))


def transition_entry(row: TransitionRow) -> TransitionEntry:
    """A transition as the ledger tells it."""
    return TransitionEntry(**_values(row))


def slot_state(row: SlotRow | None, slot: str) -> SlotState:
    """A slot's state; ``empty`` where there is no row."""
    return SlotState(slot=SlotName(slot)) if row is None else SlotState(**_values(row))


def slot_row(state: SlotState) -> SlotRow:
    """The row of a state."""
    return SlotRow(**msgspec.structs.asdict(state))


def slot_route(state: SlotState) -> SlotRoute:
    """What serving needs to know of a state."""
    canary = Canary(state.candidate, state.canary_bp) if state.stage == "canary" and state.candidate else None
    shadow = state.candidate if state.stage == "shadow" else None
    return SlotRoute(stable=state.stable, canary=canary, shadow=shadow, fallback=state.fallback)
