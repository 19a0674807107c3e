"""The ledger: which releases exist, what the gate said of each, and which are live. Aliases follow it."""

from infra.ledger.entries import GateEntry, Outcome, ReleaseEntry, SlotState, TransitionEntry
from infra.ledger.errors import Fenced, LedgerError
from infra.ledger.store import Ledger, open_ledger

__all__ = [
    "Fenced",
    "GateEntry",
    "Ledger",
    "LedgerError",
    "Outcome",
    "ReleaseEntry",
    "SlotState",
    "TransitionEntry",
    "open_ledger",
]
