"""New York's calendar, against the real days of 45 months of AAPL and against days known by name."""

from __future__ import annotations

import csv
from datetime import UTC, date, datetime, timedelta
from importlib import resources

import pytest

from infra.market_hours import DAY, day_of, session, sessions_between


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def test_sessions_since_2022_are_the_days_that_apple_really_traded() -> None:
    text = (resources.files("mintalib.samples") / "daily-prices.csv").read_text()
    traded = {row["date"] for row in csv.DictReader(text.splitlines()) if row["date"] >= "2022-01-01"}
    days = [date(2022, 1, 1) + timedelta(days=n) for n in range((date(2026, 8, 6) - date(2022, 1, 1)).days + 1)]
    assert {str(day) for day in days if session(day, "new-york")} == traded


@pytest.mark.parametrize(
    ("day", "opens", "closes"),
    [
        (date(2026, 8, 5), "2026-08-05T09:30-04:00", "2026-08-05T16:00-04:00"),
        (date(2025, 11, 28), "2025-11-28T09:30-05:00", "2025-11-28T13:00-05:00"),  # after Thanksgiving
        (date(2025, 7, 3), "2025-07-03T09:30-04:00", "2025-07-03T13:00-04:00"),
        (date(2026, 3, 6), "2026-03-06T09:30-05:00", "2026-03-06T16:00-05:00"),  # Friday before the clocks change
        (date(2026, 3, 9), "2026-03-09T09:30-04:00", "2026-03-09T16:00-04:00"),  # Monday after
    ],
)
def test_hours_of_a_day(day: date, opens: str, closes: str) -> None:
    assert session(day, "new-york") == (at(opens), at(closes))


@pytest.mark.parametrize("text", ["2026-04-03", "2026-07-03", "2027-12-24", "2026-11-26", "2026-08-08", "2025-01-09"])
def test_closed_days(text: str) -> None:
    assert session(date.fromisoformat(text), "new-york") is None


def test_new_year_on_a_saturday_is_not_made_up_for() -> None:
    assert session(date(2021, 12, 31), "new-york") is not None


def test_round_the_clock_is_every_utc_day() -> None:
    start = at("2026-08-08T00:00+00:00")
    assert session(date(2026, 8, 8), "round-the-clock") == (start, start + DAY)
    assert len(list(sessions_between(start, start + 2 * DAY, "round-the-clock"))) == 3
    assert day_of(start - 1, "round-the-clock") == date(2026, 8, 7)
    assert day_of(start, "new-york") == date(2026, 8, 7)
    assert datetime.fromtimestamp(start, UTC).date() == date(2026, 8, 8)
