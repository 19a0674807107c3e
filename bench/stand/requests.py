"""Signed requests as bytes, made fast; built from the formats' definitions and not from serving's own wire code."""

from __future__ import annotations

import time
from hashlib import sha3_256, sha256
from typing import Any, NamedTuple

import bittensor_core
import orjson


class Wire(NamedTuple):
    """One HTTP request, in parts that can be changed before it becomes bytes."""

    line: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def raw(self) -> bytes:
        """As it goes over the wire."""
        return b"".join((self.line, b"\r\n", *(b"%b: %b\r\n" % header for header in self.headers), b"\r\n", self.body))


class Asker:
    """A validator that signs for one miner."""

    def __init__(self, uri: str, miner: str) -> None:
        """`uri`: a dev key such as ``//Alice``; `miner`: the receiver's ss58 address."""
        self._keys = bittensor_core.Keypair.create_from_uri(uri)
        self.address = str(self._keys.ss58_address)
        self.miner = miner
        self._nonce = 0

    def nonce(self) -> int:
        """Unix nanoseconds, never twice the same."""
        self._nonce = max(time.time_ns(), self._nonce + 1)
        return self._nonce

    def sign(self, message: str) -> bytes:
        """``0x`` and 128 hex digits."""
        return b"0x" + bytes(self._keys.sign(message.encode())).hex().encode()

    def legacy(self, synapse: str, body: bytes, hashed: list[Any]) -> Wire:
        """A request of SDK 10; `hashed` are the typed values under the body hash."""
        nonce, uuid = self.nonce(), "6ea6c39f-5fd2-4bb8-a647-43f7083aa381"
        digests = "".join(sha3_256(str(value).encode("utf-8", "replace")).hexdigest() for value in hashed)
        computed = sha3_256(digests.encode()).hexdigest()
        name = synapse.encode()
        headers = (
            (b"Host", b"127.0.0.1"), (b"name", name), (b"timeout", b"12.0"),
            (b"bt_header_axon_hotkey", self.miner.encode()), (b"bt_header_dendrite_version", b"10000001"),
            (b"bt_header_dendrite_nonce", b"%d" % nonce), (b"bt_header_dendrite_uuid", uuid.encode()),
            (b"bt_header_dendrite_hotkey", self.address.encode()),
            (b"bt_header_dendrite_signature", self.sign(f"{nonce}.{self.address}.{self.miner}.{uuid}.{computed}")),
            (b"computed_body_hash", computed.encode()), (b"Content-Length", b"%d" % len(body)),
            (b"Content-Type", b"application/json"),
        )  # fmt: skip
        return Wire(b"POST /%b HTTP/1.1" % name, headers, body)

    def btauth(self, target: str, body: bytes) -> Wire:
        """A request of SDK 11."""
        nonce = self.nonce()
        lines = ("btauth/1", "sr25519", "POST", target, sha256(body).hexdigest(), str(nonce), self.address, self.miner)
        headers = (
            (b"Host", b"127.0.0.1"), (b"X-Bittensor-Version", b"1"), (b"X-Bittensor-Hotkey", self.address.encode()),
            (b"X-Bittensor-Receiver", self.miner.encode()), (b"X-Bittensor-Nonce", b"%d" % nonce),
            (b"X-Bittensor-Signature", self.sign("\n".join(lines))), (b"Content-Length", b"%d" % len(body)),
            (b"Content-Type", b"application/json"),
        )  # fmt: skip
        return Wire(b"POST %b HTTP/1.1" % target.encode(), headers, body)

    def echo(self, numbers: list[float], *, legacy: bool) -> Wire:
        """A good request to ``/Echo``."""
        body = orjson.dumps({"x": numbers})
        return self.legacy("Echo", body, [numbers]) if legacy else self.btauth("/Echo", body)
