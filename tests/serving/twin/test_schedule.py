"""When the twin asks for what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.clock import Clock
from serving.subnets.synth.rules import HIGH, LOW, PROMPTS
from serving.twin import schedule
from serving.twin.schedule import Ask, Round, at_once, live, next_start, recorded
from serving.types import Asset

BTC, ETH = Asset("BTC"), Asset("ETH")
T = 1_785_763_800


async def _take(rounds: AsyncIterator[Round], count: int) -> list[Round]:
    found = []
    async for one in rounds:
        found.append(one)
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize(("now", "start"), [(T, T + 60), (T + 0.1, T + 120), (T + 59.9, T + 120), (T + 60, T + 120)])
def test_a_start_is_60_to_120_s_ahead(now: float, start: int) -> None:
    assert next_start(now) == start
    assert 60 <= next_start(now) - now <= 120


async def test_recorded_rounds_set_the_time_and_come_in_its_order() -> None:
    rounds = [one async for one in recorded({LOW: [T + 600, T], HIGH: [T + 300]}, {LOW: [BTC], HIGH: [BTC, ETH]})]
    assert rounds == [
        Round(float(T), (Ask(LOW, BTC, T),)),
        Round(T + 240.0, (Ask(HIGH, BTC, T + 300), Ask(HIGH, ETH, T + 300))),
        Round(T + 600.0, (Ask(LOW, BTC, T + 600),)),
    ]


async def test_at_once_makes_new_prompts_every_time(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock.json")
    clock.set(T, rate=0.0)
    rounds = await _take(at_once(clock, {LOW: [BTC], HIGH: [ETH]}), 3)
    assert [one.at for one in rounds] == [None] * 3
    assert [{ask.start for ask in one.asks} for one in rounds] == [{T + 60}, {T + 120}, {T + 180}]
    assert rounds[0].asks == (Ask(LOW, BTC, T + 60), Ask(HIGH, ETH, T + 60))


async def test_live_keeps_the_subnets_cadence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stop = Clock(tmp_path / "clock.json"), asyncio.Event()
    clock.set(T, rate=0.0)
    waits: list[float] = []

    async def pause(seconds: float, stop: asyncio.Event) -> bool:
        waits.append(seconds)
        return len(waits) > 9

    monkeypatch.setattr(schedule, "pause", pause)
    assets = {slot: PROMPTS[slot].assets for slot in (LOW, HIGH)}
    asks = [one.asks[0] async for one in live(clock, assets, stop)]
    assert [(ask.slot, ask.asset) for ask in asks] == [
        (LOW, "BTC"), (HIGH, "BTC"), (HIGH, "ETH"), (HIGH, "XAU"), (LOW, "ETH"), (HIGH, "SOL"), (HIGH, "HYPE"),
        (LOW, "XAU"), (HIGH, "BTC"),
    ]  # fmt: skip
    assert waits == pytest.approx([0, 0, 120, 240, 300, 360, 480, 600, 600, 720], abs=1)
    assert {ask.start for ask in asks} == {T + 60}


async def test_pause_is_cut_short_by_stop() -> None:
    stop = asyncio.Event()
    assert await schedule.pause(0.0, stop) is False
    stop.set()
    assert await schedule.pause(3600.0, stop) is True
