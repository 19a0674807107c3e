"""What can go wrong with the ledger."""

from __future__ import annotations

from serving.errors import UserError


class LedgerError(UserError):
    """The ledger refuses: the message says what, and what to do."""


class Fenced(LedgerError):
    """Someone else took the slot after this process did, so nothing was written. Exit code 3: held."""

    def __init__(self, slot: str, holder: str) -> None:
        super().__init__(f"slot {slot}: {holder} took it over in the meantime; nothing was changed", exit_code=3)
        self.holder = holder
