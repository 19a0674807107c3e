"""The twin from end to end against a small gateway: counts, verdicts, turns, recorded time, and faults."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from serving.clock import Clock
from serving.errors import UserError
from serving.state import AssetPrices, PriceBook, write_state
from serving.subnets.base import Task
from serving.subnets.synth.rules import HIGH, LOW
from serving.twin import Ask, Options, PromptRow, Report, Round, Target, World, book_file, run_twin
from serving.twin.schedule import at_once, recorded
from serving.types import Asset
from serving.wire.keys import dev_hotkey
from tests.serving.twin.gateway import Gateway, gateway, walk

T = 1_785_763_800
BTC, ETH = Asset("BTC"), Asset("ETH")
FERDIE = dev_hotkey("//Ferdie")


def _book(at: float | None) -> PriceBook:
    known = AssetPrices(100.5, T - 60, "simulated", True, False, {})
    return PriceBook(as_of=at or T, written_at=0.0, assets={BTC: known, ETH: known})


def _truth(asset: str, start: int, increment: int, length: int) -> Any:
    points = length // increment + 1
    return 100.5 * np.exp(np.random.default_rng(start).normal(0, 1e-3, points).cumsum())


@pytest.fixture
def world(tmp_path: Path) -> World:
    clock = Clock(tmp_path / "clock.json")
    clock.set(T, rate=0.0)
    return World(clock, _book, _truth)


async def _run(
    at: Gateway, world: World, rounds: AsyncIterator[Round] | None = None, stop: asyncio.Event | None = None, **how: Any
) -> Report:
    options = Options(**{"requests": 8, "simulations": 20, **how})
    rounds = rounds or at_once(world.clock, {HIGH: [BTC, ETH], LOW: [BTC]})
    return await run_twin(Target(at.url, FERDIE), rounds, world, options, stop)


async def test_a_good_run_is_counted_scored_and_paid(world: World) -> None:
    rows: list[PromptRow] = []
    async with gateway(walk) as at:
        found = await _run(at, world, on_row=rows.append)
    assert (found.requests, found.invalid, found.errors, found.reasons) == (8, 0, 0, {})
    assert found.by_dialect == {"legacy": 4, "btauth": 4}
    assert found.by_slot == {HIGH: 6, LOW: 2}
    assert found.good
    assert (found.scored, found.unscored) == (8, 0)
    assert sum(found.incentive.values()) == pytest.approx(1)
    assert found.p50_ms is not None
    assert found.p99_ms is not None
    assert 0 < found.p50_ms <= found.p99_ms
    assert len(rows) == 8
    assert all(row.crps is not None and row.terms == row.terms_full and row.simulated for row in found.prompts)
    assert {row.caller for row in found.prompts} == {dev_hotkey("//Alice"), dev_hotkey("//Bob")}
    document = json.loads(json.dumps(found.to_json()))
    assert msgspec.convert(document, Report) == found


async def test_what_goes_over_the_wire(world: World) -> None:
    async with gateway(walk) as at:
        await _run(at, world, requests=2, concurrency=1)
    legacy, btauth = at.asked
    assert legacy.line == btauth.line == "POST /Simulation HTTP/1.1"
    assert legacy.fields["bt_header_axon_hotkey"] == btauth.fields["x-bittensor-receiver"] == FERDIE
    assert 60 <= float(legacy.fields["timeout"]) <= 120
    assert json.loads(btauth.body) == {
        "simulation_input": {
            "asset": "ETH", "start_time": "2026-08-03T13:31:00+00:00", "time_increment": 60, "time_length": 3600,
            "num_simulations": 20,
        }
    }  # fmt: skip


async def test_an_asset_is_asked_in_every_way(world: World) -> None:
    async with gateway(walk) as at:
        found = await _run(at, world, at_once(world.clock, {HIGH: [BTC]}), requests=4)
    assert len({(row.dialect, row.caller) for row in found.prompts}) == 4


async def test_recorded_time_is_set_and_held_before_each_round(world: World) -> None:
    seen: list[float | None] = []

    def book(at: float | None) -> PriceBook:
        seen.append(at)
        assert float(world.clock.subnet()) == at
        return _book(at)

    rounds = recorded({HIGH: [T, T + 600], LOW: [T + 600]}, {HIGH: [BTC, ETH], LOW: [BTC]})
    async with gateway(walk) as at:
        found = await _run(at, World(world.clock, book, _truth), rounds, requests=None)
    assert seen == [T - 60, T + 540, T + 600]
    assert [(row.slot, row.start) for row in found.prompts] == [(HIGH, T)] * 2 + [(HIGH, T + 600)] * 2 + [
        (LOW, T + 600)
    ]
    assert float(world.clock.subnet()) == T + 600
    assert found.good


async def test_an_invalid_answer_is_named(world: World) -> None:
    def answer(task: Task) -> Any:
        return walk(task)[:, :-1] if task.request.asset == BTC else walk(task)

    async with gateway(answer) as at:
        found = await _run(at, world, at_once(world.clock, {HIGH: [BTC, ETH]}), requests=4)
    assert (found.invalid, found.errors) == (2, 0)
    assert found.reasons == {"Number of time points is incorrect: expected 61, got 60": 2}
    assert not found.good
    assert [row.crps == -1 for row in found.prompts] == [row.asset == BTC for row in found.prompts]


async def test_errors_are_counted_by_reason(world: World) -> None:
    async with gateway(walk) as at:
        at.mangle = lambda status, headers, body: (503, headers, b'{"message": "no model is ready"}')
        found = await _run(at, world, requests=3)
    assert (found.invalid, found.errors, found.reasons) == (0, 3, {"503 no model is ready": 3})
    assert found.p50_ms is None
    assert all(row.verdict == "error" and row.crps == -1 for row in found.prompts)


async def test_a_gateway_that_is_down_is_an_error_not_a_crash(world: World) -> None:
    async with gateway(walk) as at:
        pass
    found = await _run(at, world, requests=3)
    assert (found.errors, found.reasons) == (3, {"connection refused": 3})
    assert not found.good


async def test_more_requests_in_a_round_than_may_wait(world: World) -> None:
    one = Round(None, tuple(Ask(HIGH, BTC, T + 60 * number) for number in range(1, 101)))

    async def rounds() -> AsyncIterator[Round]:
        yield one

    async with gateway(walk) as at:
        found = await _run(at, world, rounds(), requests=None, concurrency=16, simulations=2)
    assert (found.requests, found.scored) == (100, 100)


async def test_stop_ends_it_with_what_there_is(world: World) -> None:
    stop = asyncio.Event()
    async with gateway(walk) as at:
        found = await _run(at, world, stop=stop, requests=None, on_row=lambda row: stop.set())
    assert found.interrupted
    assert 3 <= found.requests < 20
    assert found.scored == found.requests


async def test_live_waits_no_longer_than_told(world: World) -> None:
    async with gateway(walk) as at:
        found = await _run(at, world, requests=3, live=True, truth_wait=0.0)
    assert (found.requests, found.scored, found.unscored) == (3, 0, 3)
    assert found.good


async def test_without_scores_an_answer_is_judged_and_let_go(world: World) -> None:
    def truth(asset: str, start: int, increment: int, length: int) -> Any:
        raise AssertionError("nobody asked for a score")

    def answer(task: Task) -> Any:
        return walk(task)[:, :-1] if task.request.asset == ETH else walk(task)

    async with gateway(answer) as at:
        rounds = at_once(world.clock, {HIGH: [BTC, ETH]})
        found = await _run(at, World(world.clock, _book, truth), rounds, live=True, score=False)
    assert (found.requests, found.invalid, found.scored, found.unscored, found.incentive) == (8, 4, 0, 0, {})
    assert all(row.crps is None and row.ms > 0 for row in found.prompts)


async def test_live_scores_when_the_time_has_come(world: World) -> None:
    async def rounds() -> AsyncIterator[Round]:
        yield Round(None, (Ask(HIGH, BTC, T + 60),))
        world.clock.set(T + 3600 + 150, rate=0.0)
        yield Round(None, (Ask(HIGH, ETH, T + 3600 + 240),))

    async with gateway(walk) as at:
        found = await _run(at, world, rounds(), requests=2, live=True, truth_wait=0.0)
    assert [row.crps is not None for row in found.prompts] == [True, False]


async def test_a_world_that_fails_is_raised(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def truth(asset: str, start: int, increment: int, length: int) -> Any:
        raise UserError("the object store does not answer")

    async with gateway(walk) as at:
        with pytest.raises(UserError, match="object store"):
            await _run(at, World(world.clock, _book, truth))
    gc.collect()
    assert not [
        each for each in caplog.records if each.name == "asyncio"
    ]  # no error is left for the collector of garbage to find


async def test_only_loopback_is_asked(world: World) -> None:
    target = Target("http://198.51.100.7:8091", FERDIE)
    with pytest.raises(UserError, match="not this machine"):
        await run_twin(target, at_once(world.clock, {HIGH: [BTC]}), world, Options(requests=1))


def test_the_book_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    read = book_file(path, limit_s=0.0, poll_s=0.0)
    with pytest.raises(UserError, match="cannot be read"):
        read(None)
    write_state(path, _book(T))
    assert read(None).as_of == T
    assert read(T + 0.5).as_of == T
    with pytest.raises(UserError, match=f"is as of {T}, not {T + 600}"):
        read(T + 600.0)
    path.write_bytes(b"{")
    with pytest.raises(UserError, match="cannot be read"):
        read(None)
