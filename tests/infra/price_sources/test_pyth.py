"""Pyth's two services, on a local server that answers in their shapes: prices, candles, errors, rate limits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from infra import bars
from infra.price_sources import SourceError
from infra.price_sources.http import Refused, Unreachable
from infra.price_sources.pyth import SYMBOLS, Pyth
from tests.pyth_server import PythWorld, pyth_server

NOW = 1_785_931_230


@pytest.fixture
def world() -> Iterator[PythWorld]:
    with pyth_server() as found:
        yield found


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def pyth(world: PythWorld, waits: list[float]) -> Iterator[Pyth]:
    source = Pyth(world.url, world.url, days=2.0, clock=lambda: NOW, sleep=waits.append)
    yield source
    source.close()


def candles(world: PythWorld, asset: str, step: int, first: int, count: int) -> None:
    """Candles whose close is their opening time over a million."""
    known = world.candles.setdefault((SYMBOLS[asset], "1" if step == 60 else "60"), {})
    for at in range(first, first + count * step, step):
        price = at / 1e6
        known[at] = (price, price + 1, price - 1, price)


def test_spot_prices_by_exponent_and_gold_by_its_token(world: PythWorld, pyth: Pyth) -> None:
    world.price("Crypto.BTC/USD", 6140993501000, -8, NOW - 2, conf=4222594000)
    world.price("Crypto.XAUT/USD", 350012, -2, NOW)
    world.price("Metal.XAU/USD", 1, 0, NOW)
    found = pyth.spots(["BTC", "XAU"], NOW)
    assert found.refused == {}
    assert found.prices["BTC"].price == pytest.approx(61409.93501)
    assert found.prices["BTC"].confidence == pytest.approx(42.22594)
    assert found.prices["BTC"].time == NOW - 2
    assert found.prices["XAU"].price == pytest.approx(3500.12)
    paths = [path for path, _ in world.requests]
    assert paths == ["/v2/price_feeds", "/v2/updates/price/latest"]
    pyth.spots(["BTC"], NOW)
    assert len(world.requests) == 3  # the ids are known


def test_stale_doubtful_and_impossible_prices_are_refused_by_name(world: PythWorld, pyth: Pyth) -> None:
    world.price("Crypto.BTC/USD", 100, 0, NOW - 61)
    world.price("Crypto.ETH/USD", 100, 0, NOW, conf=3)
    world.price("Crypto.SOL/USD", 0, 0, NOW)
    world.price("Crypto.XRP/USD", 5, 0, NOW + 120)
    world.price("Crypto.HYPE/USD", 5, 0, NOW, conf=0)
    world.feeds["Crypto.TSLAX/USD"] = "f" * 64
    found = pyth.spots(["BTC", "ETH", "SOL", "XRP", "HYPE", "TSLAX", "NVDAX", "WTIOIL"], NOW)
    assert list(found.prices) == ["HYPE"]
    assert found.refused == {
        "BTC": "stale: published 61 s ago",
        "ETH": "doubtful: within 3.0 % either way",
        "SOL": "a price of 0",
        "XRP": "published 120 s ahead of this machine's clock",
        "TSLAX": "no update",
        "NVDAX": "Pyth lists no Crypto.NVDAX/USD",
        "WTIOIL": "not on Pyth",
    }


def test_one_feed_that_the_key_may_not_read_does_not_take_the_others_down(world: PythWorld, pyth: Pyth) -> None:
    for symbol in ("Crypto.BTC/USD", "Crypto.AAPLX/USD", "Crypto.ETH/USD"):
        world.price(symbol, 5, 0, NOW, conf=0)
    world.forbidden.add(world.feeds["Crypto.AAPLX/USD"])
    found = pyth.spots(["BTC", "AAPLX", "ETH"], NOW)
    assert sorted(found.prices) == ["BTC", "ETH"]
    assert "answered 403: not entitled" in found.refused["AAPLX"]


def test_the_key_is_sent_and_a_missing_one_is_told(world: PythWorld) -> None:
    world.price("Crypto.BTC/USD", 5, 0, NOW, conf=0)
    world.key = "secret"
    source = Pyth(world.url, world.url, api_key="secret", clock=lambda: NOW)
    assert source.spots(["BTC"], NOW).prices["BTC"].price == 5.0
    source.close()
    source = Pyth(world.url, world.url, clock=lambda: NOW)
    with pytest.raises(Refused, match="answered 401: Unauthorized"):
        source.spots(["BTC"], NOW)
    source.close()


def test_history_by_days_without_the_candle_that_is_not_finished(world: PythWorld, pyth: Pyth) -> None:
    first = NOW - 2 * 86_400 - NOW % 60
    candles(world, "BTC", 60, first - 600, 2 * 1440 + 20)
    table = pyth.history("BTC", 60)
    assert table["time"].min() == NOW - NOW % 60 - 2 * 86_400
    assert table["time"].max() == NOW - NOW % 60 - 60
    assert bars.clean(table, 60).dropped.get("replaced by a later row") is None
    assert len(bars.clean(table, 60).bars) == 2 * 1440
    np.testing.assert_allclose(table["close"], table["time"] / 1e6)
    asked = [(int(q["from"][0]), int(q["to"][0])) for path, q in world.requests if path.endswith("history")]
    assert all(end - start <= 86_400 for start, end in asked)
    assert world.requests[0][1]["symbol"] == ["Crypto.BTC/USD"]


def test_history_since_a_time_and_by_the_hour(world: PythWorld, pyth: Pyth) -> None:
    candles(world, "XAU", 3600, NOW - NOW % 3600 - 10 * 3600, 11)
    table = pyth.history("XAU", 3600, since=NOW - NOW % 3600 - 3 * 3600)
    assert [(at - NOW + NOW % 3600) // 3600 for at in table["time"]] == [-3, -2, -1]
    assert world.requests[0][1]["resolution"] == ["60"]


def test_no_data_is_told_and_an_error_is_raised_with_its_words(world: PythWorld, pyth: Pyth) -> None:
    assert pyth.history("BTC", 60, since=NOW - 600).empty
    assert pyth.notes() == ["pyth: no data of BTC by 60 s since 2026-08-05T11:50Z"]
    world.errmsg = "Invalid symbol"
    with pytest.raises(SourceError, match=r"no candles of Crypto\.BTC/USD: Invalid symbol"):
        pyth.history("BTC", 60, since=NOW - 600)
    with pytest.raises(SourceError, match="Pyth has no WTIOIL"):
        pyth.history("WTIOIL", 60)


def test_a_hole_in_the_candles_is_a_bad_row_and_not_a_price(world: PythWorld, pyth: Pyth) -> None:
    candles(world, "BTC", 60, NOW - 630, 3)
    body = b'{"s":"ok","t":[%d,%d],"o":[1,null],"h":[1,null],"l":[1,null],"c":[1,null],"v":[0,0]}'
    world.trouble = [(200, {}, body % (NOW - 630, NOW - 570))]
    assert bars.clean(pyth.history("BTC", 60, since=NOW - 630), 60).dropped == {"no positive price": 1}


def test_rate_limits_and_passing_trouble_are_waited_out(world: PythWorld, pyth: Pyth, waits: list[float]) -> None:
    candles(world, "BTC", 60, NOW - 630, 5)
    world.trouble = [(429, {"Retry-After": "12"}, b""), (503, {}, b"busy"), (200, {}, b"<html>")]
    assert len(pyth.history("BTC", 60, since=NOW - 630)) == 5
    assert waits == [12.0, 1.0, 2.0]


def test_trouble_that_stays_is_told_once_with_its_count(world: PythWorld, pyth: Pyth, waits: list[float]) -> None:
    world.trouble = [(500, {}, b"")] * 4
    with pytest.raises(Unreachable, match=r"/v1/shims/tradingview/history: answered 500; tried 4 times"):
        pyth.history("BTC", 60)
    assert waits == [0.5, 1.0, 2.0]
    waits.clear()
    world.trouble = [(429, {"Retry-After": "3600"}, b"")]
    with pytest.raises(Unreachable, match="answered 429, and asks to wait 3600 s; tried 1 times"):
        pyth.history("BTC", 60)
    assert waits == []


def test_a_spot_is_not_waited_for_beyond_its_patience(world: PythWorld, pyth: Pyth, waits: list[float]) -> None:
    world.trouble = [(429, {"Retry-After": "60"}, b"")]
    with pytest.raises(Unreachable, match="asks to wait 60 s"):
        pyth.spots(["BTC"], NOW)
    assert waits == []


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"parsed":[{"id":1}]}', b"3", b'{"parsed":3}'])
def test_answers_in_another_shape_are_one_line(world: PythWorld, pyth: Pyth, body: bytes) -> None:
    world.price("Crypto.BTC/USD", 5, 0, NOW, conf=0)
    pyth.spots(["BTC"], NOW)
    world.trouble = [(200, {}, body)]
    with pytest.raises(SourceError, match="another shape"):
        pyth.spots(["BTC"], NOW)
    world.trouble = [(200, {}, body)]
    with pytest.raises(SourceError, match=r"another shape|no candles"):
        pyth.history("BTC", 60, since=NOW - 600)


def test_a_server_that_is_not_there() -> None:
    waits: list[float] = []
    source = Pyth("http://127.0.0.1:1", "http://127.0.0.1:1", clock=lambda: NOW, sleep=waits.append)
    with pytest.raises(Unreachable, match=r"no answer \(ConnectError\); tried 2 times"):
        source.spots(["BTC"], NOW)
    with pytest.raises(Unreachable, match=r"no answer \(ConnectError\); tried 4 times"):
        source.history("BTC", 60)
    source.close()
