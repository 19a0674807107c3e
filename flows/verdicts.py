"""What a check of the gate says, and what all of them say together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from infra.ledger.entries import Outcome, Verdict

NAMES = ("integrity", "parity", "load", "validity", "latency", "score", "worth")


class Check(msgspec.Struct, frozen=True):
    """One check: its verdict, the reason in words, and the evidence."""

    name: str
    verdict: Outcome
    reason: str
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a report: name, verdict, reason, then the evidence."""
        return {"name": self.name, "verdict": self.verdict, "reason": self.reason, **self.evidence}


def skipped(name: str, reason: str) -> Check:
    """A check that was not made."""
    return Check(name, "skipped", reason)


def whole(checks: Sequence[Check]) -> Verdict:
    """``fail`` when any check fails, ``pass`` only when score passes and none is open, else ``inconclusive``.

    So no data, and a check that could not decide, never read as a pass.
    """
    said = {check.name: check.verdict for check in checks}
    if "fail" in said.values():
        return "fail"
    if said.get("score") == "pass" and "inconclusive" not in said.values():
        return "pass"
    return "inconclusive"


def summary(checks: Sequence[Check]) -> str:
    """The checks that decided, in one line."""
    verdict = whole(checks)
    deciding = [check for check in checks if check.verdict == ("fail" if verdict == "fail" else "inconclusive")]
    if verdict == "inconclusive":
        deciding += [check for check in checks if check.name == "score" and check.verdict == "skipped"]
    if not deciding:
        deciding = [check for check in checks if check.name == "score"]
    return "; ".join(f"{check.name}: {check.reason}" for check in deciding)
