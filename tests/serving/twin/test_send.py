"""Only loopback is asked, and a reply that a validator would lose counts as an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.errors import UserError
from serving.twin.callers import Dialect, Signed
from serving.twin.send import Reply, Sender, simulation_output
from tests.serving.twin.gateway import Gateway, gateway, walk

INPUTS = {
    "simulation_input": {
        "asset": "BTC", "start_time": "2026-08-03T13:30:00+00:00", "time_increment": 60, "time_length": 3600,
        "num_simulations": 2,
    }
}  # fmt: skip


def _signed(dialect: Dialect) -> Signed:
    """Headers of the dialect's kind; the fake gateway checks no signature."""
    body = json.dumps(INPUTS).encode()
    sign = "bt_header_dendrite_signature" if dialect == "legacy" else "X-Bittensor-Signature"
    return Signed([(sign, "0x00"), ("Content-Length", str(len(body))), ("Content-Type", "application/json")], body)


async def _post(at: Gateway, dialect: Dialect, limit_s: float = 60.0) -> Reply:
    async with Sender(at.url) as sender:
        return await sender.post("/Simulation", _signed(dialect), dialect, limit_s)


@pytest.mark.parametrize(
    "url", ["http://198.51.100.7:8091", "http://example.com:8091", "http://0.0.0.0:8091", "http://[2001:db8::1]:80"]
)
def test_another_machine_is_refused_unless_told(url: str) -> None:
    with pytest.raises(UserError, match="not this machine"):
        Sender(url)
    assert Sender(url, allow_remote=True).address[1] in {8091, 80}


@pytest.mark.parametrize("url", ["", "127.0.0.1:8091", "https://127.0.0.1:8091", "http://", "http://127.0.0.1:port"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="no gateway address"):
        Sender(url)


def test_loopback_is_accepted() -> None:
    assert Sender("http://localhost:8091").address == ("localhost", 8091)
    assert Sender("http://[::1]:8091").address == ("::1", 8091)


@pytest.mark.parametrize("dialect", ["legacy", "btauth"])
async def test_a_good_reply(dialect: Dialect) -> None:
    async with gateway(walk) as at:
        reply = await _post(at, dialect)
        assert reply.error is None
        assert reply.content is not None
        output, error = simulation_output(reply.content, INPUTS, dialect)
        assert error is None
        assert output[:2] == [1785763800, 60]
        assert [name for name, _ in at.asked[0].headers[:5]] == [
            "Host", "Accept", "Accept-Encoding", "Connection", "User-Agent",
        ]  # fmt: skip


def _status(code: int) -> Any:
    return lambda status, headers, body: (code, headers, b'{"message": "no room"}')


def _without(name: str) -> Any:
    return lambda status, headers, body: (status, {key: v for key, v in headers.items() if key != name}, body)


def _with(name: str, value: str) -> Any:
    return lambda status, headers, body: (status, headers | {name: value}, body)


@pytest.mark.parametrize(
    ("dialect", "mangle", "error"),
    [
        ("legacy", _status(503), "503 no room"),
        ("btauth", _status(201), "201 no room"),
        ("btauth", lambda status, headers, body: (500, headers, b"<html>"), "500"),
        ("legacy", _without("content-type"), "the reply is not application/json"),
        ("legacy", _without("bt_header_axon_status_code"), "a 200 without bt_header_axon_status_code: 200"),
        ("legacy", _with("bt_header_axon_status_code", "500"), "a 200 without bt_header_axon_status_code: 200"),
        ("btauth", _with("bt_header_axon_status_code", "200"), "a btauth reply with bt_header_* headers"),
    ],
)
async def test_a_reply_that_would_be_lost(dialect: Dialect, mangle: Any, error: str) -> None:
    async with gateway(walk) as at:
        at.mangle = mangle
        reply = await _post(at, dialect)
    assert (reply.content, reply.error) == (None, error)


async def test_no_gateway_is_a_short_reason() -> None:
    async with gateway(walk) as at:
        pass
    assert (await _post(at, "btauth")).error == "connection refused"


async def test_the_limit_is_on_the_whole_answer() -> None:
    async with gateway(walk) as at:
        at.mangle = lambda status, headers, body: (status, headers | {"content-length": "9999999"}, body)
        reply = await _post(at, "btauth", limit_s=0.2)
    assert reply.timed_out
    assert reply.error == "no answer within 0 s"


@pytest.mark.parametrize(
    ("content", "dialect", "error"),
    [
        (b"{", "legacy", "the reply is not JSON"),
        (b"[1]", "legacy", "the reply is not an object"),
        (b'{"simulation_output": [1]}', "legacy", "the reply does not echo the input"),
        (b'{"simulation_input": {"asset": "ETH"}}', "legacy", "the reply does not echo the input"),
        (b'{"simulation_output": [1]}', "btauth", None),
    ],
)
def test_what_a_dendrite_makes_of_a_body(content: bytes, dialect: Dialect, error: str | None) -> None:
    assert simulation_output(content, INPUTS, dialect)[1] == error
