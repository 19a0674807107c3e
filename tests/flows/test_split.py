"""The split and its replay starts, on calendars whose answer can be counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.replays import _spread
from flows.split import GRIDS, disjoint, grid_of, make_split, sessions_with_starts
from infra.prices import PriceStore, Series
from serving.errors import UserError
from serving.subnets.synth.rules import HIGH, LOW

DAY = 86_400


def at(day: int, hour: int, minute: int = 0) -> int:
    """June 2026, a summer month: 09:30 New York is 13:30 UTC."""
    return int(datetime(2026, 6, day, hour, minute, tzinfo=UTC).timestamp())


def session(day: int) -> tuple[int, int]:
    return at(day, 13, 30), at(day, 19, 59)


class Calendar:
    """Stands for a price store that only knows sessions."""

    def __init__(self, sessions: dict[str, Sequence[tuple[int, int]]], step: int, simulated: bool = False) -> None:
        self._sessions, self._step, self._simulated = sessions, step, simulated

    def series(self) -> list[Series]:
        return [Series("test", asset, self._step, 1, "", self._simulated, True, 0, 0, []) for asset in self._sessions]

    def sessions(self, asset: str, step: int) -> Sequence[tuple[int, int]]:
        return self._sessions[asset]


def store(*args: Any, **kwargs: Any) -> PriceStore:
    return cast(PriceStore, Calendar(*args, **kwargs))


def test_high_starts_every_ten_minutes_while_an_hour_of_truth_fits() -> None:
    (found,) = sessions_with_starts(HIGH, "AAPLX", [session(1)])
    assert found.starts[0] == at(1, 13, 30)
    assert found.starts[-1] == at(1, 18, 50)
    assert set(np.diff(found.starts)) == {600}
    assert len(found.starts) == 33


def test_a_session_too_short_for_the_truth_has_no_start() -> None:
    assert sessions_with_starts(HIGH, "AAPLX", [(at(1, 13, 30), at(1, 14, 29))]) == []
    assert len(sessions_with_starts(HIGH, "AAPLX", [(at(1, 13, 30), at(1, 14, 30))])[0].starts) == 1


def test_low_starts_at_an_opening_whose_next_day_opens_too() -> None:
    monday_to_friday = [session(day) for day in range(1, 6)]
    found = sessions_with_starts(LOW, "AAPLX", [*monday_to_friday, session(8)])
    assert [s.starts for s in found] == [(at(day, 13, 30),) for day in range(1, 5)]  # not Friday, not the last


def test_the_last_forty_percent_of_the_sessions_are_held_out() -> None:
    days = [session(day) for day in (1, 2, 3, 4, 5)]
    split = make_split(store({"AAPLX": days}, 60), HIGH)
    assert [s.first for s in split.train] == [first for first, _ in days[:3]]
    assert [s.first for s in split.held_out] == [first for first, _ in days[3:]]
    assert split.cut == days[3][0]
    assert all(s.last < split.cut for s in split.train)


def test_held_out_sessions_are_rounded_up() -> None:
    split = make_split(store({"AAPLX": [session(1), session(2), session(3), session(4)]}, 60), HIGH)
    assert (len(split.train), len(split.held_out)) == (2, 2)


def test_no_asset_is_trained_on_while_another_is_held_out() -> None:
    days = [session(day) for day in (1, 2, 3, 4, 5)]
    split = make_split(store({"AAPLX": days, "NVDAX": days[2:]}, 60), HIGH)
    assert max(s.last for s in split.train) < split.cut
    assert split.assets == ("AAPLX", "NVDAX")


@pytest.mark.parametrize("sessions", [[], [session(1)]])
def test_too_few_sessions_are_one_clear_line(sessions: list[tuple[int, int]]) -> None:
    with pytest.raises(UserError, match="a split needs two"):
        make_split(store({"AAPLX": sessions}, 60), HIGH)


def test_simulated_prices_are_never_replayed() -> None:
    with pytest.raises(UserError, match="hold 0 sessions"):
        make_split(store({"BTC": [session(1), session(2)]}, 60, simulated=True), HIGH)


def test_an_unknown_slot_is_told_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="known: synth-high, synth-low"):
        grid_of("poker44")


def test_windows_that_share_nothing_are_counted_greedily() -> None:
    assert disjoint([], 3600) == 0
    assert disjoint(range(0, 3600 * 6, 600), 3600) == 6
    assert disjoint([0, 3599, 3600], 3600) == 2


def test_the_overlap_is_the_bootstraps_block() -> None:
    assert GRIDS[HIGH].overlap == 6
    assert GRIDS[LOW].overlap == 1


@given(st.lists(st.integers(0, 10**6), unique=True, min_size=1), st.integers(1, 50))
def test_a_limit_takes_that_many_spread_over_all(starts: list[int], limit: int) -> None:
    every = [("A", start) for start in sorted(starts)]
    some = _spread(every, limit)
    assert len(some) == min(limit, len(every))
    assert len(set(some)) == len(some)
    assert set(some) <= set(every)
    if limit > 1:
        assert some[0] == every[0]
        assert some[-1] == every[-1]
