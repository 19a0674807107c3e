"""Signed requests as validators send them, built from the formats' definitions and not from the code under test."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any, NamedTuple

from bittensor_core import Keypair

MINER = Keypair.create_from_uri("//Ferdie")
ALICE = Keypair.create_from_uri("//Alice")
BOB = Keypair.create_from_uri("//Bob")
CHARLIE = Keypair.create_from_uri("//Charlie")
DAVE = Keypair.create_from_uri("//Dave")
EVE = Keypair.create_from_uri("//Eve")
STRANGER = Keypair.create_from_uri("//Stranger")


class Request(NamedTuple):
    """One HTTP request."""

    target: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"

    def but(self, **headers: str | None) -> Request:
        """The same with headers changed; None removes one."""
        changed = {**self.headers, **headers}
        return self._replace(headers={name: value for name, value in changed.items() if value is not None})


def body_hash(values: list[Any]) -> str:
    inner = "".join(hashlib.sha3_256(str(value).encode()).hexdigest() for value in values)
    return hashlib.sha3_256(inner.encode()).hexdigest()


def legacy(
    synapse: str,
    fields: dict[str, Any],
    hashed: tuple[str, ...] = (),
    *,
    sender: Any = ALICE,
    receiver: Any = MINER,
    nonce: int | None = None,
    timeout: str | None = "12.0",
    uuid: str = "6ea6c39f-5fd2-4bb8-a647-43f7083aa381",
) -> Request:
    """A request as a Dendrite of SDK 10 sends it."""
    nonce = time.time_ns() if nonce is None else nonce
    computed = body_hash([fields[name] for name in hashed])
    message = f"{nonce}.{sender.ss58_address}.{receiver.ss58_address}.{uuid}.{computed}"
    headers = {
        "name": synapse,
        "bt_header_axon_hotkey": receiver.ss58_address,
        "bt_header_dendrite_version": "10005000",
        "bt_header_dendrite_nonce": str(nonce),
        "bt_header_dendrite_uuid": uuid,
        "bt_header_dendrite_hotkey": sender.ss58_address,
        "bt_header_dendrite_signature": "0x" + sender.sign(message.encode()).hex(),
        "computed_body_hash": computed,
        "content-type": "application/json",
    }
    if timeout is not None:
        headers["timeout"] = timeout
    terminal = {"status_code": None, "hotkey": None, "process_time": None}
    body = {
        "name": synapse,
        "timeout": 12.0,
        "dendrite": terminal,
        "axon": terminal,
        "computed_body_hash": "",
        **fields,
    }
    return Request(f"/{synapse}", headers, json.dumps(body).encode())


def btauth(
    target: str,
    fields: Any,
    *,
    sender: Any = ALICE,
    receiver: Any = MINER,
    nonce: int | None = None,
    method: str = "POST",
) -> Request:
    """A request as SDK 11 signs it; `fields` may be ready-made bytes."""
    nonce = time.time_ns() if nonce is None else nonce
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    lines = (
        "btauth/1", "sr25519", method, target, hashlib.sha256(body).hexdigest(), str(nonce), sender.ss58_address,
        receiver.ss58_address,
    )  # fmt: skip
    headers = {
        "X-Bittensor-Version": "1",
        "X-Bittensor-Hotkey": sender.ss58_address,
        "X-Bittensor-Receiver": receiver.ss58_address,
        "X-Bittensor-Nonce": str(nonce),
        "X-Bittensor-Signature": "0x" + sender.sign("\n".join(lines).encode()).hex(),
        "content-type": "application/json",
    }
    return Request(target, headers, body, method)


def epistula(
    target: str,
    fields: Any,
    *,
    sender: Any = ALICE,
    receiver: Any = MINER,
    at_ms: int | None = None,
    uuid: str = "0b0e7b0a-52ad-4bd5-9d2c-8b8dd7d3b0a1",
) -> Request:
    """A request as clients of Epistula 2 sign it."""
    stamp = str(time.time_ns() // 10**6 if at_ms is None else at_ms)
    body = json.dumps(fields).encode()
    signed = f"{hashlib.sha256(body).hexdigest()}.{uuid}.{stamp}.{receiver.ss58_address}"
    headers = {
        "Epistula-Version": "2",
        "Epistula-Timestamp": stamp,
        "Epistula-Uuid": uuid,
        "Epistula-Signed-By": sender.ss58_address,
        "Epistula-Signed-For": receiver.ss58_address,
        "Epistula-Request-Signature": "0x" + sender.sign(signed.encode()).hex(),
        "content-type": "application/json",
    }
    return Request(target, headers, body)
