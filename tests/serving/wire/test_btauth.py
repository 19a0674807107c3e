"""btauth/1 against the SDK's fixture and its accept and reject cases."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from serving.errors import Refusal
from serving.types import Hotkey
from serving.wire.btauth import message, read_claim
from serving.wire.head import Head
from tests.serving.wire.judged import Rules

DATA = Path(__file__).parents[2] / "data"
VECTORS = json.loads((DATA / "btauth_vectors.json").read_text())
CASES = {case["case"]: case for case in json.loads((DATA / "btauth_cases.json").read_text())["cases"]}

STATUS = {"MalformedAuth": {400, 401}, "WrongReceiver": {401}, "StaleRequest": {401}, "BadSignature": {401}}
ELSEWHERE = {
    "unbound, server does not insist",  # we always insist on a receiver
    "receiver header dropped, bound signature, not insisted",
    "own window 30 s, 25 s old",  # the window is the protocol's, not a setting
    "own window 1 s, 1.5 s old",
}
STRICTER = {
    "signature upper case without 0x (lenient)": 401,
    "nonce with leading zeros (lenient)": 400,
    "nonce negative": 400,  # stale for the SDK, no nonce at all for us
}


def verdict(case: dict[str, Any]) -> Refusal | None:
    request, server = case["request"], case["server"]
    target = request["path"].encode()
    fields = {name.lower().encode(): value.encode() for name, value in request["headers"].items()}
    head = Head(request["method"], target.partition(b"?")[0], target, fields)
    try:
        claim = read_claim(head, Hotkey(server["self_hotkey_ss58"]))
        claim.check_fresh(int(server["now_ns"]), Rules())
        claim.check_signature(head, base64.b64decode(request["body_b64"]))
    except Refusal as refused:
        return refused
    return None


@pytest.mark.parametrize("name", [name for name in CASES if name not in ELSEWHERE | set(STRICTER)])
def test_the_sdks_cases(name: str) -> None:
    case = CASES[name]
    found = verdict(case)
    if case["results"][0] == "accept":
        assert found is None
    else:
        assert found is not None
        assert found.status in STATUS[case["results"][0]]


@pytest.mark.parametrize("name", STRICTER)
def test_where_the_sdk_is_lenient_we_are_not(name: str) -> None:
    found = verdict(CASES[name])
    assert found is not None
    assert found.status == STRICTER[name]


def test_a_receiver_is_always_insisted_on() -> None:
    found = verdict(CASES["unbound, server does not insist"])
    assert found is not None
    assert found.code == "wrong_receiver"


@pytest.mark.parametrize("vector", VECTORS["positive"], ids=lambda vector: vector["name"])
def test_the_published_fixture(vector: dict[str, Any]) -> None:
    fixture = VECTORS["fixture"]
    body = fixture["body_utf8"].encode()
    signed = message(
        scheme=vector["scheme"], method=fixture["method"], target=fixture["request_target"].encode(), body=body,
        nonce=int(fixture["nonce_ns"]), sender=vector["sender_ss58"], receiver=fixture["receiver_ss58"],
    )  # fmt: skip
    assert signed.decode() == vector["signed_payload_utf8"]
    if "signed_payload_sha256" in vector:
        assert hashlib.sha256(signed).hexdigest() == vector["signed_payload_sha256"]
    headers = {
        b"x-bittensor-version": b"1",
        b"x-bittensor-hotkey": vector["sender_ss58"].encode(),
        b"x-bittensor-receiver": fixture["receiver_ss58"].encode(),
        b"x-bittensor-nonce": fixture["nonce_ns"].encode(),
        b"x-bittensor-signature": (vector["signature"] or vector["example_valid_signature"]).encode(),
    }
    if vector["crypto_header"]:
        headers[b"x-bittensor-crypto"] = vector["crypto_header"].encode()
    head = Head("POST", b"/generate", fixture["request_target"].encode(), headers)
    claim = read_claim(head, Hotkey(fixture["receiver_ss58"]))
    claim.check_fresh(int(fixture["nonce_ns"]), Rules())
    claim.check_signature(head, body)
    with pytest.raises(Refusal):
        claim.check_signature(head, body + b" ")


def test_a_hotkey_may_be_pinned_to_a_scheme() -> None:
    request = CASES["plain JSON, ed25519"]["request"]
    head = Head(
        "POST", b"/predict", b"/predict",
        {name.lower().encode(): value.encode() for name, value in request["headers"].items()},
    )  # fmt: skip
    receiver = Hotkey(CASES["plain JSON, ed25519"]["server"]["self_hotkey_ss58"])
    assert read_claim(head, receiver, lambda hotkey: "ed25519").scheme == "ed25519"
    with pytest.raises(Refusal) as refused:
        read_claim(head, receiver, lambda hotkey: "sr25519")
    assert (refused.value.status, refused.value.code) == (401, "wrong_scheme")
