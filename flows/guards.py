"""What the traffic record says of a candidate: go on, hold, or stop at once.

No traffic is never a pass: a stage is held until the candidate has answered enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np

from serving.traffic.records import Role, TrafficRecord

Word = Literal["go", "hold", "abort"]


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rollout goes on what evidence."""

    shadow_answers: int = 20
    """Good shadow answers before the canary."""
    canary_answers: int = 10
    """Good canary answers before the promotion."""
    canary_bp: int = 2_000
    """Basis points of the traffic that a canary answers."""
    error_margin: float = 0.05
    """A candidate may fail this much more of its requests than stable does."""
    slower: float = 3.0
    """A candidate's median may be this many times stable's ..."""
    slack_ms: float = 250.0
    """... and this many milliseconds on top."""
    compare_from: int = 10
    """Answers of both that a comparison of medians needs."""
    deadline_share: float = 0.5
    """No answer may take more than this share of its deadline."""


class Tally(msgspec.Struct, frozen=True):
    """One release's answers in a stretch of the record."""

    good: int
    invalid: int
    errors: int
    median_ms: float
    """Milliseconds in the model, good answers only; NaN without any."""
    worst_share: float
    """The largest share of its deadline that an answer took."""

    @property
    def asked(self) -> int:
        """Requests that reached the release."""
        return self.good + self.invalid + self.errors

    @property
    def error_share(self) -> float:
        return self.errors / self.asked if self.asked else 0.0


class Finding(msgspec.Struct, frozen=True):
    """What the guards say, why, and on what."""

    word: Word
    reason: str
    candidate: Tally
    stable: Tally


def model_ms(record: TrafficRecord) -> float | None:
    """Milliseconds that the model took; the whole request's where no stage was told apart."""
    return record.timings_ms.get("triton", record.timings_ms.get("total"))


def tally(records: Iterable[TrafficRecord]) -> Tally:
    """Count answers; a refusal for reasons of the caller's counts for nobody."""
    good = invalid = errors = 0
    times: list[float] = []
    worst = 0.0
    for record in records:
        if record.code == "invalid":
            invalid += 1
        elif record.code in {"error", "too_late"}:
            errors += 1
        elif record.code == "ok":
            good += 1
            took = model_ms(record)
            if took is not None:
                times.append(took)
                if record.deadline_s > 0:
                    worst = max(worst, took / 1000.0 / record.deadline_s)
    return Tally(good, invalid, errors, float(np.median(times)) if times else float("nan"), worst)


def judge(
    records: Iterable[TrafficRecord], *, candidate: str, stable: str, role: Role, need: int, pace: Pace
) -> Finding:
    """Compare a candidate in `role` (shadow or canary) with stable over the records of its stage."""
    seen = list(records)
    ours = tally(r for r in seen if r.release == candidate and r.role in {role, "none"})
    theirs = tally(r for r in seen if r.release == stable and r.role in {"stable", "fallback"})
    word: Word
    fault = _fault(ours, theirs, pace)
    if ours.asked == 0:
        word, reason = "hold", f"no {role} traffic has reached the candidate yet"
    elif fault is not None:
        word, reason = "abort", fault
    elif ours.good < need:
        word, reason = "hold", f"{ours.good} of {need} {role} answers so far"
    else:
        word, reason = "go", f"{ours.good} good {role} answers, none invalid, {ours.errors} failed"
    return Finding(word, reason, ours, theirs)


def _fault(ours: Tally, theirs: Tally, pace: Pace) -> str | None:
    """Why the candidate must stop at once, if it must."""
    if ours.invalid:
        return f"{ours.invalid} of {ours.asked} answers broke the validator's rules"
    if ours.error_share > theirs.error_share + pace.error_margin:
        return f"{ours.errors} of {ours.asked} requests failed; stable failed {theirs.errors} of {theirs.asked}"
    if ours.worst_share > pace.deadline_share:
        return f"an answer took {ours.worst_share:.0%} of its deadline"
    if min(ours.good, theirs.good) >= pace.compare_from:
        limit = pace.slower * theirs.median_ms + pace.slack_ms
        if ours.median_ms > limit:
            return f"median {ours.median_ms:.0f} ms against stable's {theirs.median_ms:.0f} ms (limit {limit:.0f} ms)"
    return None
