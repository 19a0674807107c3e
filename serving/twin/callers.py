"""Signed requests as validators send them: the legacy dialect of SDK 10.0.1, and btauth/1 of SDK 11."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid as uuids
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import bittensor_core
import orjson

from serving.types import Hotkey

Dialect = Literal["legacy", "btauth"]

NO_FIELDS_HASH = hashlib.sha3_256(b"").hexdigest()
"""The body hash of a synapse without hash fields."""
SDK_VERSION = 10_000_001
"""10.0.1, as Synth's validators run it."""
_TERMINAL = dict.fromkeys(
    (
        "status_code", "status_message", "process_time", "ip", "port", "version", "nonce", "uuid", "hotkey",
        "signature",
    )
)  # fmt: skip


class Signed(NamedTuple):
    """A request ready to send: headers in wire order, without those of the HTTP client, and the body."""

    headers: list[tuple[str, str]]
    body: bytes


class Caller:
    """A validator: a hotkey that signs."""

    def __init__(self, uri: str) -> None:
        """From a key URI such as ``//Alice``; sr25519."""
        self._keypair = bittensor_core.Keypair.create_from_uri(uri)
        self.uri = uri
        self.hotkey = Hotkey(self._keypair.ss58_address)
        self._last_nonce = 0

    def nonce(self) -> int:
        """Unix nanoseconds, never twice the same and always rising."""
        self._last_nonce = max(time.time_ns(), self._last_nonce + 1)
        return self._last_nonce

    def sign(self, message: str) -> str:
        """``0x`` and 128 hex digits over the text's UTF-8."""
        return "0x" + bytes(self._keypair.sign(message.encode())).hex()


def legacy(
    caller: Caller,
    receiver: Hotkey,
    *,
    address: tuple[str, int],
    synapse: str,
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    timeout: float,
) -> Signed:
    """A request as a Dendrite of SDK 10.0.1 makes it with Synth's own client.

    `inputs` are required fields, none of them hashed; `outputs` are sent as null; `timeout` in seconds. The two
    sizes are process sizes of the SDK's objects and mean nothing.
    """
    nonce, uuid = caller.nonce(), str(uuids.uuid4())
    headers = [
        ("name", synapse),
        ("timeout", str(round(timeout, 6))),
        ("bt_header_axon_ip", address[0]),
        ("bt_header_axon_port", str(address[1])),
        ("bt_header_axon_hotkey", receiver),
        ("bt_header_dendrite_ip", "127.0.0.1"),
        ("bt_header_dendrite_version", str(SDK_VERSION)),
        ("bt_header_dendrite_nonce", str(nonce)),
        ("bt_header_dendrite_uuid", uuid),
        ("bt_header_dendrite_hotkey", caller.hotkey),
        ("bt_header_dendrite_signature", caller.sign(legacy_message(nonce, caller.hotkey, receiver, uuid))),
    ]
    for name, value in inputs.items():
        headers.append((f"bt_header_input_obj_{name}", base64.b64encode(orjson.dumps(type(value)())).decode()))
    headers += [("header_size", "464"), ("total_size", "3867"), ("computed_body_hash", NO_FIELDS_HASH)]
    body = orjson.dumps(
        {
            "name": synapse, "timeout": 12.0, "total_size": 3106, "header_size": 0, "dendrite": _TERMINAL,
            "axon": _TERMINAL, "computed_body_hash": "", **inputs, **dict.fromkeys(outputs),
        }
    )  # fmt: skip
    return Signed([*headers, ("Content-Length", str(len(body))), ("Content-Type", "application/json")], body)


def legacy_message(nonce: int, sender: str, receiver: str, uuid: str, body_hash: str = NO_FIELDS_HASH) -> str:
    """What a Dendrite signs."""
    return f"{nonce}.{sender}.{receiver}.{uuid}.{body_hash}"


def btauth(caller: Caller, receiver: Hotkey, target: str, inputs: Mapping[str, Any]) -> Signed:
    """A POST of `inputs` as plain JSON to a request target such as ``/Simulation``, signed by btauth/1."""
    body, nonce = orjson.dumps(inputs), caller.nonce()
    message = btauth_message(target, body, nonce, sender=caller.hotkey, receiver=receiver)
    headers = [
        ("X-Bittensor-Version", "1"),
        ("X-Bittensor-Hotkey", caller.hotkey),
        ("X-Bittensor-Receiver", receiver),
        ("X-Bittensor-Nonce", str(nonce)),
        ("X-Bittensor-Signature", caller.sign(message)),
        ("Content-Length", str(len(body))),
        ("Content-Type", "application/json"),
    ]
    return Signed(headers, body)


def btauth_message(target: str, body: bytes, nonce: int, *, sender: str, receiver: str) -> str:
    """The eight signed lines of btauth/1 for a POST under sr25519."""
    digest = hashlib.sha256(body).hexdigest()
    return "\n".join(("btauth/1", "sr25519", "POST", target, digest, str(nonce), sender, receiver))
