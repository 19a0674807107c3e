"""Our requests are those of the SDKs: the same headers in the same order, the same body, a signature that verifies."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import bittensor_core
import pytest

from serving.twin.callers import NO_FIELDS_HASH, Caller, btauth, btauth_message, legacy, legacy_message
from serving.types import Hotkey
from tests.serving.subnets.synth.vectors import load

CAPTURED = load("wire_synth.json")["requests"]
# Set by the HTTP client, or sizes of the SDK's Python objects.
CLIENT = {"Host", "Accept", "Accept-Encoding", "Connection", "User-Agent"}
VARIES = {
    "header_size", "total_size", "bt_header_dendrite_nonce", "bt_header_dendrite_uuid", "bt_header_dendrite_ip",
    "bt_header_dendrite_signature",
}  # fmt: skip
BOB = Hotkey("5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty")


def _ours(captured: dict[str, Any]) -> tuple[dict[str, str], bytes, list[str]]:
    theirs, body = dict(captured["headers"]), json.loads(captured["body_utf8"])
    signed = legacy(
        Caller(captured["sender_uri"]),
        Hotkey(captured["receiver_ss58"]),
        address=(theirs["bt_header_axon_ip"], int(theirs["bt_header_axon_port"])),
        synapse="Simulation",
        inputs={"simulation_input": body["simulation_input"]},
        outputs=["simulation_output"],
        timeout=captured["timeout_s"],
    )
    return dict(signed.headers), signed.body, [name for name, _ in signed.headers]


@pytest.mark.parametrize("captured", CAPTURED, ids=[one["case"] for one in CAPTURED])
def test_legacy_is_the_captured_request(captured: dict[str, Any]) -> None:
    headers, body, order = _ours(captured)
    theirs = dict(captured["headers"])
    assert order == [name for name, _ in captured["headers"] if name not in CLIENT]
    same = [name for name in order if name not in VARIES | {"Content-Length"}]
    assert {name: headers[name] for name in same} == {name: theirs[name] for name in same}
    theirs_body = json.loads(captured["body_utf8"])
    assert body == json.dumps(theirs_body | {"total_size": 3106}, separators=(",", ":")).encode()
    assert int(headers["Content-Length"]) == len(body)
    assert captured["computed_body_hash"] == NO_FIELDS_HASH


@pytest.mark.parametrize("captured", CAPTURED, ids=[one["case"] for one in CAPTURED])
def test_legacy_verifies_under_the_signed_message(captured: dict[str, Any]) -> None:
    headers, _, _ = _ours(captured)
    message = legacy_message(
        int(headers["bt_header_dendrite_nonce"]),
        headers["bt_header_dendrite_hotkey"],
        captured["receiver_ss58"],
        headers["bt_header_dendrite_uuid"],
        headers["computed_body_hash"],
    )
    signature = bytes.fromhex(headers["bt_header_dendrite_signature"].removeprefix("0x"))
    assert headers["bt_header_dendrite_signature"].startswith("0x")
    assert bittensor_core.verify(message.encode(), signature, captured["sender_ss58"], bittensor_core.CRYPTO_SR25519)
    assert not bittensor_core.verify(
        message.encode() + b"x", signature, captured["sender_ss58"], bittensor_core.CRYPTO_SR25519
    )


def test_the_captured_message_is_ours() -> None:
    for captured in CAPTURED:
        theirs = dict(captured["headers"])
        uuid, sender = theirs["bt_header_dendrite_uuid"], captured["sender_ss58"]
        message = legacy_message(int(captured["nonce_ns"]), sender, captured["receiver_ss58"], uuid)
        assert message == captured["signed_message"]


def test_btauth_signs_the_published_bytes() -> None:
    vectors = load("btauth_vectors.json")
    fixture, positive = vectors["fixture"], vectors["positive"][0]
    message = btauth_message(
        fixture["request_target"],
        fixture["body_utf8"].encode(),
        int(fixture["nonce_ns"]),
        sender=positive["sender_ss58"],
        receiver=fixture["receiver_ss58"],
    )
    assert message == positive["signed_payload_utf8"]


def test_btauth_request() -> None:
    alice = Caller("//Alice")
    signed = btauth(alice, BOB, "/Simulation", {"simulation_input": {"asset": "BTC"}})
    headers = dict(signed.headers)
    assert signed.body == b'{"simulation_input":{"asset":"BTC"}}'
    assert (headers["X-Bittensor-Version"], headers["X-Bittensor-Receiver"]) == ("1", BOB)
    assert headers["X-Bittensor-Hotkey"] == alice.hotkey
    lines = [
        "btauth/1", "sr25519", "POST", "/Simulation", hashlib.sha256(signed.body).hexdigest(),
        headers["X-Bittensor-Nonce"], alice.hotkey, BOB,
    ]  # fmt: skip
    signature = bytes.fromhex(headers["X-Bittensor-Signature"].removeprefix("0x"))
    message = "\n".join(lines).encode()
    assert bittensor_core.verify(message, signature, alice.hotkey, bittensor_core.CRYPTO_SR25519)


def test_nonces_always_rise() -> None:
    alice = Caller("//Alice")
    nonces = [alice.nonce() for _ in range(1000)]
    assert sorted(set(nonces)) == nonces
