"""Synth on the road: requests refused in one plain line, tensors by the contract, replies that a Dendrite can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.seed import seed_of
from serving.state import AssetPrices, Points, PriceBook
from serving.subnets.base import Route, Task
from serving.subnets.synth.protocol import SYNTH, history_tensor, synth
from serving.subnets.synth.rules import ASSETS, HIGH, LOW
from serving.types import Asset, UnixSeconds
from tests.serving.subnets.synth.vectors import load

NOW = UnixSeconds(1_795_370_737.0)
START = 1_795_370_820
GIVEN: Mapping[str, Any] = {
    "asset": "BTC",
    "start_time": "2026-11-22T18:07:00+00:00",
    "time_increment": 60,
    "time_length": 3600,
    "num_simulations": 5,
}


def _route(**options: Any) -> Route:
    (route,) = synth(**options).routes
    return route


def _task(**changes: Any) -> Task:
    return _route().parse({"simulation_input": {**GIVEN, **changes}}, NOW)


def _refused(body: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        _route().parse(body, NOW)
    return caught.value


def _book(spot: float = 100.5, spot_time: int = START - 60, **history: Points) -> PriceBook:
    known = AssetPrices(
        spot, spot_time, "packaged", False, True, {key.removeprefix("s"): p for key, p in history.items()}
    )
    return PriceBook(as_of=START - 55.0, written_at=0.0, assets={Asset("BTC"): known})


def test_every_captured_request_is_understood() -> None:
    for captured in load("wire_synth.json")["requests"]:
        body = json.loads(captured["body_utf8"])
        now = UnixSeconds(int(captured["wall_time_ns"]) / 1e9)
        task = _route().parse(body, now)
        given = body["simulation_input"]
        assert task.slot == (LOW if given["time_length"] == 86_400 else HIGH)
        assert json.loads(task.canonical) == given
        reply = json.loads(bytes(_route().reply(task, np.full((1, 2), 1.5), legacy=True)))
        assert reply["simulation_input"] == given


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"asset": "DOGE"}, "unknown_asset"),
        ({"asset": "btc"}, "unknown_asset"),
        ({"asset": 5}, "bad_input"),
        ({"asset": None}, "bad_input"),
        ({"start_time": "2026-11-22T18:07:00"}, "naive_start_time"),
        ({"start_time": "2026-11-22"}, "naive_start_time"),
        ({"start_time": "2026-11-22T18:05:00+00:00"}, "past_start_time"),
        ({"start_time": "1970-01-01T00:00:00Z"}, "past_start_time"),
        ({"start_time": "2026-11-22T18:07:30+00:00"}, "bad_start_time"),
        ({"start_time": "2026-11-22T18:07:00.000001+00:00"}, "bad_start_time"),
        ({"start_time": "tomorrow"}, "bad_start_time"),
        ({"start_time": "9999-12-31T23:59:00-23:59"}, "bad_start_time"),  # it would be in the year 10000
        ({"start_time": ""}, "bad_start_time"),
        ({"start_time": "2026" * 1000}, "bad_start_time"),
        ({"start_time": "\ud800"}, "bad_start_time"),
        ({"start_time": START}, "bad_input"),
        ({"time_increment": 60, "time_length": 86_400}, "unknown_grid"),
        ({"time_increment": 0}, "unknown_grid"),
        ({"time_increment": "a minute"}, "bad_input"),
        ({"time_increment": 60.5}, "bad_input"),
        ({"time_length": [3600]}, "bad_input"),
        ({"num_simulations": 0}, "bad_num_simulations"),
        ({"num_simulations": -1}, "bad_num_simulations"),
        ({"num_simulations": 1001}, "bad_num_simulations"),
        ({"num_simulations": 10_000_000}, "bad_num_simulations"),
        ({"num_simulations": 10**30}, "bad_num_simulations"),
        ({"num_simulations": None}, "bad_input"),
        ({"num_simulations": float("nan")}, "bad_input"),
    ],
)
def test_a_bad_field_is_refused_in_one_line(changes: dict[str, Any], code: str) -> None:
    refusal = _refused({"simulation_input": {**GIVEN, **changes}})
    assert (refusal.status, refusal.code) == (400, code)
    assert refusal.message.isascii()
    assert "\n" not in refusal.message
    assert len(refusal.message) <= 200


@pytest.mark.parametrize("body", [{}, {"simulation_input": None}, {"simulation_input": [1]}, {"simulation_input": {}}])
def test_a_body_without_an_input_is_refused(body: dict[str, Any]) -> None:
    assert _refused(body).status == 400


@given(
    st.dictionaries(
        st.sampled_from([*GIVEN, "other"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.lists(st.integers()),
    )
)
def test_any_input_is_understood_or_refused(changes: dict[str, Any]) -> None:
    try:
        task = _task(**changes)
    except Refusal as error:
        refusal = error
    else:
        assert _route().parse({"simulation_input": json.loads(task.canonical)}, NOW).canonical == task.canonical
        return
    assert refusal.status == 400
    assert refusal.message.isascii()
    for value in changes.values():
        if isinstance(value, str) and len(value) > 8:
            assert value not in refusal.message


def test_numbers_may_come_as_the_subnets_own_message_takes_them() -> None:
    plain = _task()
    assert _task(time_increment="60", time_length=3600.0, num_simulations="5").canonical == plain.canonical
    without = {name: value for name, value in GIVEN.items() if name != "num_simulations"}
    assert _route().parse({"simulation_input": without}, NOW).request.input.num_simulations == 1


def test_one_instant_in_two_spellings_has_one_seed_and_its_own_echo() -> None:
    zulu, offset = _task(start_time="2026-11-22T18:07:00Z"), _task(start_time="2026-11-22T20:07:00+02:00")
    assert zulu.canonical == offset.canonical == _task().canonical
    assert zulu.request.start == START
    assert seed_of(zulu.slot, zulu.canonical) == seed_of(offset.slot, offset.canonical)
    reply = json.loads(bytes(_route().reply(offset, np.full((5, 61), 1.5), legacy=True)))
    assert reply["simulation_input"]["start_time"] == "2026-11-22T20:07:00+02:00"


def test_now_is_still_a_good_start() -> None:
    body = {"simulation_input": dict(GIVEN)}
    assert _route().parse(body, UnixSeconds(float(START))).request.start == START


def test_tensors_follow_the_contract() -> None:
    history = Points([START - 180, START - 120, START - 60, START + 60], [99.0, 100.0, 100.5, 999.0])
    task = _task()
    tensors, recorded = _route().inputs(task, 2**63 - 1, _book(s60=history), NOW)
    assert {name: (array.dtype.str, array.shape) for name, array in tensors.items()} == {
        "PRICE": ("<f4", (1, 1)),
        "HISTORY": ("<f4", (1, 2, 512)),
        "START": ("<i8", (1, 1)),
        "GRID": ("<i4", (1, 2)),
        "N": ("<i4", (1, 1)),
        "SEED": ("<u8", (1, 1)),
        "ASSET": ("|O", (1, 1)),
    }
    assert tensors["PRICE"][0, 0] == np.float32(100.5)
    assert tensors["START"][0, 0] == START
    assert tensors["GRID"].tolist() == [[60, 3600]]
    assert tensors["N"].tolist() == [[5]]
    assert tensors["SEED"].tolist() == [[2**63 - 1]]
    assert tensors["ASSET"].tolist() == [[b"BTC"]]
    seconds, logs = tensors["HISTORY"][0]
    assert seconds[-3:].tolist() == [180.0, 120.0, 60.0]
    np.testing.assert_allclose(logs[-3:], np.log([99 / 100.5, 100 / 100.5, 1.0]), rtol=1e-6)
    assert np.isnan(tensors["HISTORY"][0][:, :-3]).all()
    assert recorded["simulated"] is False
    assert recorded["proxy"] is True
    assert recorded["source"] == "packaged"
    assert json.loads(json.dumps(recorded)) == recorded


def test_history_is_the_last_512_usable_points_of_the_slots_step() -> None:
    times = [START - 3600 * ago for ago in range(600, 0, -1)]
    prices = [100.0 + ago for ago in range(600)]
    prices[-1] = float("nan")
    prices[-2] = 0.0
    tensor = history_tensor(Points(times, prices), 100.0, START)
    assert tensor[0, -1] == 3 * 3600
    assert not np.isnan(tensor).any()
    assert np.isnan(history_tensor(None, 100.0, START)).all()
    low = _task(time_increment=300, time_length=86_400)
    tensors, _ = _route().inputs(low, 0, _book(s60=Points([START - 60], [1.0])), NOW)
    assert np.isnan(tensors["HISTORY"]).all()


@pytest.mark.parametrize(
    ("book", "code"),
    [
        (None, "no_price"),
        (PriceBook(as_of=0.0, written_at=0.0, assets={}), "no_price"),
        (_book(spot=float("nan")), "bad_price"),
        (_book(spot=0.0), "bad_price"),
        (_book(spot_time=START + 60), "price_ahead"),
        (_book(spot_time=int(NOW) - 601), "stale_price"),
    ],
)
def test_no_usable_price_is_a_503(book: PriceBook | None, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        _route().inputs(_task(), 0, book, NOW)
    assert (caught.value.status, caught.value.code) == (503, code)
    assert caught.value.retry_after


def test_a_stale_price_is_used_and_marked_where_that_is_allowed() -> None:
    old, fresh = _book(spot_time=int(NOW) - 601), _book(spot_time=int(NOW) - 599)
    _, recorded = _route(use_stale=True).inputs(_task(), 0, old, NOW)
    assert recorded["stale_price"] is True
    assert recorded["price_age"] == pytest.approx(601)
    assert _route(use_stale=True).inputs(_task(), 0, fresh, NOW).recorded["stale_price"] is False
    with pytest.raises(Refusal):
        _route(max_price_age=10.0).inputs(_task(), 0, fresh, NOW)


def test_from_tensor_to_a_reply_that_is_valid() -> None:
    task, route = _task(), _route()
    steps = np.random.default_rng(3).normal(0, 1e-3, (1, 5, 61)).cumsum(axis=2)
    answer = route.answer(task, {"PATHS": (97_352.6 * np.exp(steps)).astype(np.float32)})
    assert route.check(task, answer) is None
    legacy = json.loads(bytes(route.reply(task, answer, legacy=True)))
    plain = json.loads(bytes(route.reply(task, answer, legacy=False)))
    assert legacy["simulation_input"] == GIVEN
    assert list(plain) == ["simulation_output"]
    assert legacy["simulation_output"] == plain["simulation_output"]
    start, increment, *paths = plain["simulation_output"]
    assert (type(start), start, type(increment), increment) == (int, START, int, 60)
    assert paths == np.asarray(answer).tolist()


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"PATHS": np.full((1, 5, 60), 1.5, dtype=np.float32)},
        {"PATHS": np.full((2, 5, 61), 1.5, dtype=np.float32)},
        {"PATHS": np.array([[b"x"]], dtype=np.object_)},
        {"PATHS": np.float32(1.0)},
        {"PATHS": np.full((1, 5, 61), np.nan, dtype=np.float32)},
        {"PATHS": np.full((1, 5, 61), 123_456_789.0, dtype=np.float32)},
    ],
)
def test_a_bad_model_output_is_stopped_and_raises_nothing(outputs: dict[str, Any]) -> None:
    task, route = _task(), _route()
    assert route.check(task, route.answer(task, outputs))


def test_the_subnet_says_what_it_serves() -> None:
    (route,) = SYNTH.routes
    assert (SYNTH.name, SYNTH.netuid, set(SYNTH.slots)) == ("synth", 50, {LOW, HIGH})
    assert (route.synapse, list(route.hash_fields), route.max_timeout) == ("Simulation", [], 120.0)
    assert route.hashed_values({"simulation_input": {}}) == []
    assert len(ASSETS) == 12
