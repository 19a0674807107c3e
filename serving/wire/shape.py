"""The spellings of numbers, hex and hotkeys that headers may use."""

from __future__ import annotations

import re

from serving.errors import Refusal
from serving.types import Hotkey, NonceNs
from serving.wire.head import Head
from serving.wire.keys import MAX_ADDRESS

_NONCE = re.compile(r"[1-9][0-9]{0,18}")
"""Decimal, no sign, no blanks, no leading zero; fits 63 bits for some centuries."""
_SIGNATURE = re.compile(r"0x[0-9a-f]{128}")


def need(head: Head, name: bytes) -> str:
    """A header that must be there; raises Refusal (400)."""
    value = head.text(name)
    if value is None:
        raise Refusal(400, "missing_header", f"missing header {name.decode()}")
    return value


def nonce(head: Head, name: bytes) -> NonceNs:
    """A nonce in unix nanoseconds."""
    text = need(head, name)
    if not _NONCE.fullmatch(text) or (len(text) == 19 and text > "9223372036854775807"):
        raise Refusal(400, "bad_nonce", f"{name.decode()} is not a decimal number of nanoseconds")
    return NonceNs(int(text))


def signature(head: Head, name: bytes) -> bytes:
    """A 64-byte signature, ``0x`` and 128 lower-case hex digits."""
    text = need(head, name)
    if not _SIGNATURE.fullmatch(text):
        raise Refusal(401, "bad_signature_format", f"{name.decode()} is not 0x and 128 lower-case hex digits")
    return bytes.fromhex(text[2:])


def hotkey(head: Head, name: bytes) -> Hotkey:
    """A hotkey as spelt: of a plausible length; who it is, `identity` says."""
    text = need(head, name)
    if not 0 < len(text) <= MAX_ADDRESS:
        raise Refusal(401, "bad_hotkey", "the hotkey is not an ss58 address")
    return Hotkey(text)
