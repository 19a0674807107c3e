"""The dialects on the road: what each caller gets, refusals of every kind included, and what a switch changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.types import Hotkey
from serving.wire.dialects import claims
from tests.serving.callers import ALICE, STRANGER, Request, btauth, epistula, legacy
from tests.serving.fake_triton import FakeTriton, doubled
from tests.serving.fronts import opened
from tests.serving.gateways import Box, Reply, write_routes
from tests.serving.processes import raw

Make = Callable[..., Request]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    write_routes(tmp_path, stable="tiny-a")
    made = Box(tmp_path, FakeTriton(tiny_a=doubled), claims=claims(epistula_on=True))
    yield made
    made.close()


def from_dendrite(x: Any = (1.0,), **options: Any) -> Request:
    return legacy("Double", {"x": list(x)}, ("x",), **options)


def from_sdk_11(x: Any = (1.0,), **options: Any) -> Request:
    return btauth("/Double", {"x": list(x)}, **options)


def from_epistula(x: Any = (1.0,), **options: Any) -> Request:
    return epistula("/Double", {"x": list(x)}, **options)


DIALECTS = {"legacy": from_dendrite, "btauth": from_sdk_11, "epistula": from_epistula}


async def again(box: Box, request: Request) -> Reply:
    await box.ask(request)
    return await box.ask(request)


async def twice_a_header(box: Box, request: Request) -> Reply:
    return await box.ask(request, extra=[(b"host", b"a"), (b"host", b"b")])


async def many_headers(box: Box, request: Request) -> Reply:
    return await box.ask(request, extra=[(b"x-%d" % number, b"") for number in range(100)])


async def without_release(box: Box, request: Request) -> Reply:
    write_routes(box.home, stable=None)
    return await box.ask(request)


def as_sent(change: Callable[[Request], Request]) -> Any:
    async def ask(box: Box, request: Request) -> Reply:
        return await box.ask(change(request))

    return ask


HOWEVER = {
    "another path": (404, as_sent(lambda request: request._replace(target="/Nothing"))),
    "a slash behind it": (404, as_sent(lambda request: request._replace(target="/Double/"))),
    "GET": (405, as_sent(lambda request: request._replace(method="GET"))),
    "HEAD": (405, as_sent(lambda request: request._replace(method="HEAD"))),
    "a header twice": (400, twice_a_header),
    "too many headers": (431, many_headers),
    "another body": (401, as_sent(lambda request: request._replace(body=b'{"x": [9.0]}'))),
    "a replay": (401, again),
    "a body that is too large": (413, as_sent(lambda request: request._replace(body=b" " * 100_000))),
    "no release": (503, without_release),
}


@pytest.mark.parametrize("make", DIALECTS.values(), ids=list(DIALECTS))
@pytest.mark.parametrize("what", HOWEVER)
async def test_only_a_dendrite_is_refused_with_bt_headers_and_always(box: Box, what: str, make: Make) -> None:
    status, ask = HOWEVER[what]
    reply: Reply = await ask(box, make())
    found = {name: value for name, value in reply.headers.items() if name.startswith("bt_header_")}
    assert reply.status == status
    assert list(json.loads(reply.body)) == ["message"]
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(reply.body))
    if make is not from_dendrite:
        assert not found
        return
    assert list(found) == [f"bt_header_axon_{name}" for name in ("status_code", "status_message", "process_time")]
    assert found["bt_header_axon_status_code"] == str(status)
    assert found["bt_header_axon_status_message"] == reply.message


@pytest.mark.parametrize("make", DIALECTS.values(), ids=list(DIALECTS))
async def test_a_stranger_is_refused_in_its_own_dialect(box: Box, make: Make) -> None:
    reply = await box.ask(make(sender=STRANGER))
    assert reply.status == 403
    assert ("bt_header_axon_status_code" in reply.headers) is (make is from_dendrite)


async def test_a_mixture_is_refused_without_bt_headers(box: Box) -> None:
    for other in (from_sdk_11(), from_epistula()):
        mixed = from_dendrite().but(**other.headers)
        reply = await box.ask(mixed)
        assert (reply.status, reply.message) == (400, "signature headers of two dialects in one request")
        assert "bt_header_axon_status_code" not in reply.headers


async def test_an_epistula_call_is_answered_once_for_each_uuid(box: Box) -> None:
    at_ms = time.time_ns() // 10**6
    uuids = [f"0b0e7b0a-52ad-4bd5-9d2c-8b8dd7d3b0a{number}" for number in range(3)]
    for uuid in uuids:
        reply = await box.ask(from_epistula([1.0, 2.5], uuid=uuid, at_ms=at_ms))
        assert (reply.status, json.loads(reply.body)) == (200, {"y": [2.0, 5.0]})
        assert reply.headers == {"content-type": "application/json", "content-length": str(len(reply.body))}
    for uuid in uuids:
        reply = await box.ask(from_epistula([1.0, 2.5], uuid=uuid, at_ms=at_ms))
        assert (reply.status, reply.message) == (401, "this nonce was used already")
    assert box.count("headframe_requests_total", dialect="epistula", outcome="ok") == 3


async def test_epistula_is_a_switch(tmp_path: Path) -> None:
    write_routes(tmp_path, stable="tiny-a")
    made = Box(tmp_path, FakeTriton(tiny_a=doubled))
    reply = await made.ask(from_epistula())
    assert (reply.status, reply.message) == (401, "Epistula is not spoken here")
    made.close()


async def test_a_pinned_hotkey_signs_by_its_own_scheme_alone(tmp_path: Path) -> None:
    write_routes(tmp_path, stable="tiny-a")
    pinned = claims(schemes={Hotkey(ALICE.ss58_address): "ed25519"})
    made = Box(tmp_path, FakeTriton(tiny_a=doubled), claims=pinned)
    reply = await made.ask(from_sdk_11())
    assert (reply.status, reply.message) == (401, "this hotkey signs under another scheme")
    reply = await made.ask(from_sdk_11().but(**{"X-Bittensor-Crypto": "ed25519"}))
    assert (reply.status, reply.message) == (401, "the signature does not fit this request")
    made.close()


async def test_monotonic_nonces_rise_on_the_route_that_takes_them_and_are_stale_elsewhere(box: Box) -> None:
    box.gateway.miners.first.routes[b"/Double"].monotonic_nonces = True

    async def ask(nonce: int, version: str | None = "7001002", synapse: str = "Double") -> int:
        hashed = ("x",) if synapse == "Double" else ()
        request = legacy(synapse, {"x": [1.0]}, hashed, nonce=nonce).but(bt_header_dendrite_version=version)
        return (await box.ask(request)).status

    up_s = 5_000_000_000
    assert [await ask(up_s), await ask(up_s + 7, None), await ask(up_s + 8)] == [200, 200, 200]
    assert [await ask(up_s + 8), await ask(up_s + 1), await ask(up_s + 9, "10005000")] == [401, 401, 401]
    assert await ask(up_s + 10, synapse="Plain") == 401
    now = time.time_ns()
    assert [await ask(now, None), await ask(now, None), await ask(now - 3600 * 10**9, None)] == [200, 401, 401]


@pytest.mark.parametrize("make", DIALECTS.values(), ids=list(DIALECTS))
async def test_what_is_refused_before_the_road_is_refused_in_the_same_dialects(tmp_path: Path, make: Make) -> None:
    endless = {"x-padding": "x" * 30_000}
    async with opened(tmp_path, FakeTriton(tiny_a=doubled)) as front:
        for changed, status in ((endless, 431), ({"transfer-encoding": "gzip"}, 400), ({"expect": "miracles"}, 417)):
            head, _, body = (await front.say(raw(make(), **changed))).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert list(json.loads(body)) == ["message"]
            assert (b"\r\nbt_header_axon_status_code: %d\r\n" % status in head) is (make is from_dendrite)


async def test_a_head_request_gets_a_head_alone(tmp_path: Path) -> None:
    async with opened(tmp_path, FakeTriton(tiny_a=doubled)) as front:
        request = raw(from_dendrite()._replace(method="HEAD"), Connection="close")
        head, _, body = (await front.say(request)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nallow: POST\r\n" in head
    assert not body
