"""Hotkeys by public key: one spelling each, and signatures checked by the Rust core alone."""

from __future__ import annotations

from typing import NewType

import bittensor_core

from serving.errors import Refusal
from serving.types import Hotkey

PublicKey = NewType("PublicKey", bytes)
"""32 bytes."""

PREFIX = 42
MAX_ADDRESS = 64
"""Characters; longer than any ss58 address of a 32-byte key."""
_CRYPTO: dict[str, int] = {
    "sr25519": bittensor_core.CRYPTO_SR25519,
    "ed25519": bittensor_core.CRYPTO_ED25519,
}


def public_key(address: str) -> PublicKey:
    """The key behind an ss58 address; raises Refusal (401) for anything but the one spelling with prefix 42.

    The same key has an address in every prefix, so a list keyed by the text could be walked around.
    """
    if len(address) > MAX_ADDRESS:  # decoding takes time by the square of the length
        raise Refusal(401, "bad_hotkey", "the hotkey is not an ss58 address")
    try:
        key = bittensor_core.ss58_decode(address)
    except ValueError:
        raise Refusal(401, "bad_hotkey", "the hotkey is not an ss58 address") from None
    if bittensor_core.ss58_encode(key, PREFIX) != address:
        raise Refusal(401, "hotkey_alias", "the hotkey is not spelt with ss58 prefix 42")
    return PublicKey(key)


def is_scheme(text: str) -> bool:
    """Whether this is the exact name of a scheme we verify."""
    return text in _CRYPTO


def signed_by(hotkey: Hotkey, message: bytes, signature: bytes, scheme: str = "sr25519") -> bool:
    """Whether `signature` (64 bytes) over `message` is the hotkey's, under this scheme only."""
    try:
        return bool(bittensor_core.verify(message, signature, hotkey, _CRYPTO[scheme]))
    except ValueError:
        return False


def dev_hotkey(uri: str) -> Hotkey:
    """The hotkey of a public development key such as ``//Alice``."""
    return Hotkey(bittensor_core.Keypair.create_from_uri(uri).ss58_address)
