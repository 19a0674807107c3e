"""A caller's round goes on with the release that it began with, where a subnet compares answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import lmdb
import numpy as np
import pytest

from serving.admission.breaker import FAILURES
from serving.config import SubnetSpec
from serving.nonces.store import open_store, prepare_store
from serving.pins import Pins
from serving.state import Canary, RouteTable, SlotRoute
from serving.subnets.base import Tensors
from serving.subnets.itsai.rules import ROUND_S
from serving.subnets.registry import FACTORIES
from serving.traffic.writer import read_records
from serving.types import Hotkey, ReleaseId, Seconds, SlotName
from serving.wire.keys import PublicKey
from tests.serving.callers import ALICE, BOB, Request, btauth
from tests.serving.fake_triton import FakeTriton, FakeTritonServer, broken, doubled
from tests.serving.gateways import Box, replace, write_routes
from tests.serving.processes import gateway, until

SLOT, OTHER = SlotName("tiny"), SlotName("other")
OURS = Hotkey("5OurHotkey")
X, Y = PublicKey(b"x" * 32), PublicKey(b"y" * 32)
A, B = ReleaseId("tiny-a"), ReleaseId("tiny-b")


@pytest.fixture
def env(tmp_path: Path) -> Iterator[lmdb.Environment]:
    prepare_store(tmp_path / "nonces", time.time_ns())
    with open_store(tmp_path / "nonces") as made:
        yield made


def test_a_pin_is_of_one_slot_one_hotkey_of_ours_and_one_caller_and_ends(env: lmdb.Environment) -> None:
    pins = Pins(env)
    assert pins.get(SLOT, OURS, X, 0.0) is None
    pins.put(SLOT, OURS, X, A, until=100.0)
    pins.put(SLOT, OURS, Y, B, until=50.0)
    assert pins.get(SLOT, OURS, X, 99.0) == A
    assert pins.get(SLOT, OURS, Y, 49.0) == B
    assert pins.get(OTHER, OURS, X, 0.0) is pins.get(SLOT, Hotkey("5Another"), X, 0.0) is None
    assert pins.held(49.0) == {A, B}
    assert pins.held(50.0) == {A}
    assert pins.get(SLOT, OURS, X, 100.0) is None


def test_what_is_over_is_forgotten_and_nothing_else(env: lmdb.Environment) -> None:
    pins = Pins(env)
    pins.put(SLOT, OURS, X, A, until=100.0)
    pins.put(SLOT, OURS, Y, B, until=50.0)
    pins.forget(60.0)
    pins.put(SLOT, OURS, X, B, until=200.0)
    pins.forget(150.0)
    assert pins.held(0.0) == {B}
    pins.forget(200.0)
    assert pins.held(0.0) == set()


def test_pins_outlive_whoever_made_them(tmp_path: Path) -> None:
    prepare_store(tmp_path / "nonces", time.time_ns())
    for made in (True, False):
        with open_store(tmp_path / "nonces") as env:
            if made:
                Pins(env).put(SLOT, OURS, X, A, until=100.0)
            assert Pins(env).get(SLOT, OURS, X, 1.0) == A


class Pinned:
    """The tiny gateway whose route pins for a minute."""

    def __init__(self, home: Path, triton: FakeTriton) -> None:
        self.home, self.box = home, Box(home, triton)
        self.route = cast(Any, self.box.gateway.miners.first.routes[b"/Double"])
        self.route.pin_s = Seconds(60.0)

    async def ask(self, number: float = 1.0, **signing: Any) -> tuple[str, str | None]:
        """Role and release of the answer."""
        reply = await self.box.ask(btauth("/Double", {"x": [number]}, **signing))
        assert (reply.status, json.loads(reply.body)) == (200, {"y": [2 * number]})
        last = list(read_records(self.home / "traffic"))[-1]
        return last.role, last.release


@pytest.fixture
def pinned(tmp_path: Path) -> Iterator[Pinned]:
    write_routes(tmp_path, stable="tiny-a")
    made = Pinned(tmp_path, FakeTriton(tiny_a=doubled, tiny_b=doubled, tiny_c=broken))
    yield made
    made.box.close()


async def test_a_flip_reaches_a_caller_in_a_round_when_it_is_over_and_others_at_once(pinned: Pinned) -> None:
    assert await pinned.ask() == ("stable", "tiny-a")
    write_routes(pinned.home, stable="tiny-b")
    assert await pinned.ask(2.0) == ("pinned", "tiny-a")
    assert await pinned.ask(sender=BOB) == ("stable", "tiny-b")
    assert pinned.box.answerer.pins.held(time.time()) == {A, B}
    pinned.box.wall.at = later = time.time_ns() + 61 * 10**9
    assert await pinned.ask(nonce=later) == ("stable", "tiny-b")


@pytest.mark.parametrize("early_s", [0, 1, 600])
async def test_no_round_of_its_ai_straddles_the_end_of_the_one_before(pinned: Pinned, early_s: int) -> None:
    pinned.route.pin_s = ROUND_S
    began = time.time_ns()
    assert (await pinned.ask(nonce=began))[1] == "tiny-a"
    write_routes(pinned.home, stable="tiny-b")
    found = []
    for after_s in (900, 5399 - early_s, 5401 - early_s):  # a miner's turn may come early in a validator's next round
        pinned.box.wall.at = at = began + after_s * 10**9
        found.append((await pinned.ask(nonce=at))[1])
    assert found == ["tiny-a", "tiny-b", "tiny-b"]


async def test_a_round_that_began_with_a_canary_goes_on_with_it(pinned: Pinned) -> None:
    write_routes(pinned.home, stable="tiny-a", canary="tiny-b", share_bp=10_000)
    assert await pinned.ask() == ("canary", "tiny-b")
    write_routes(pinned.home, stable="tiny-a")
    assert await pinned.ask(2.0) == ("pinned", "tiny-b")
    write_routes(pinned.home, stable="tiny-b")
    assert await pinned.ask(3.0) == ("stable", "tiny-b")


async def test_the_inputs_have_no_part_in_the_choice(pinned: Pinned) -> None:
    write_routes(pinned.home, stable="tiny-a", canary="tiny-b", share_bp=5_000)
    pinned.route.pin_s = Seconds(1e-9)  # over before the next call
    assert len({await pinned.ask(float(number)) for number in range(40)}) == 1
    pinned.route.pin_s = Seconds(0.0)
    assert len({await pinned.ask(float(number)) for number in range(40)}) == 2


async def test_a_pinned_release_that_fails_is_left_for_one_that_answers(pinned: Pinned) -> None:
    pinned.box.answerer.triton.models["tiny-a"] = doubled  # type: ignore[attr-defined]
    assert await pinned.ask() == ("stable", "tiny-a")
    write_routes(pinned.home, stable="tiny-b")
    pinned.box.answerer.triton.models["tiny-a"] = broken  # type: ignore[attr-defined]
    assert await pinned.ask() == ("fallback", "tiny-b")
    pinned.box.answerer.triton.models["tiny-a"] = doubled  # type: ignore[attr-defined]
    assert await pinned.ask() == ("stable", "tiny-b")  # the round goes on with what answered last
    del pinned.box.answerer.triton.models["tiny-b"]  # type: ignore[attr-defined]
    write_routes(pinned.home, stable="tiny-a")
    assert await pinned.ask() == ("fallback", "tiny-a")  # one that is not loaded any more, too


async def test_a_round_goes_on_though_every_routed_release_is_left_alone(pinned: Pinned) -> None:
    assert await pinned.ask() == ("stable", "tiny-a")
    write_routes(pinned.home, stable="tiny-b")
    breaker = pinned.box.answerer.breakers.of(B)
    for _ in range(FAILURES):
        breaker.bad()
    assert await pinned.ask() == ("pinned", "tiny-a")
    reply = await pinned.box.ask(btauth("/Double", {"x": [1.0]}, sender=BOB))
    assert (reply.status, reply.message) == (503, "the model does not answer at present")


def halves(value: float) -> Any:
    def model(tensors: Tensors) -> Tensors:
        return {"PROBABILITIES": np.full((1, int(tensors["WORDS"].sum())), value, np.float32)}

    return model


def texts(*given: str, sender: Any = ALICE) -> Request:
    return btauth("/TextSynapse", {"texts": list(given), "predictions": [], "version": "3.14.0"}, sender=sender)


@pytest.mark.slow
def test_both_calls_of_an_its_ai_round_are_answered_alike_across_workers_flips_and_restarts(tmp_path: Path) -> None:
    triton = FakeTritonServer()
    triton.models |= {"itsai-1": halves(0.25), "itsai-2": halves(0.75)}
    slot, first, second = SlotName("itsai"), ReleaseId("itsai-1"), ReleaseId("itsai-2")
    options: dict[str, Any] = {"subnets": [SubnetSpec(FACTORIES["itsai"])], "slots": ["itsai"]}

    def predicted(running: Any, *given: str, sender: Any = ALICE) -> set[float]:
        reply = running.ask(texts(*given, sender=sender))
        assert reply.status_code == 200
        return {value for text in reply.json()["predictions"] for value in text}

    try:
        with gateway(tmp_path, triton.address, **options) as running:
            replace(tmp_path / "routes.json", RouteTable(2, time.time(), {slot: SlotRoute(stable=first)}))
            assert predicted(running, "one of the texts") == {0.25}
            flipped = SlotRoute(stable=second, canary=Canary(second, 5_000))
            replace(tmp_path / "routes.json", RouteTable(3, time.time(), {slot: flipped}))
            for number in range(8):  # whichever worker takes it
                assert predicted(running, f"text number {number}", "and another one") == {0.25}
            assert predicted(running, "one of the texts", sender=BOB) == {0.75}
            until(lambda: all(ack["held"] == [first, second] for ack in running.get("/workers").json()["said"]))
        with gateway(tmp_path, triton.address, **options) as running:
            assert predicted(running, "one of the texts") == {0.25}
            assert predicted(running, "one of the texts", sender=BOB) == {0.75}
    finally:
        triton.stop()
