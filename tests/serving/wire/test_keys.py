"""Hotkeys have one spelling."""

from __future__ import annotations

import bittensor_core
import pytest

from serving.errors import Refusal
from serving.types import Hotkey
from serving.wire.keys import dev_hotkey, public_key, signed_by
from tests.serving.callers import ALICE


def test_a_key_is_found_behind_its_prefix_42_address() -> None:
    assert public_key(ALICE.ss58_address) == ALICE.public_key
    assert dev_hotkey("//Alice") == ALICE.ss58_address


@pytest.mark.parametrize("prefix", [0, 2, 41, 43, 1337])
def test_another_prefix_of_the_same_key_is_an_alias(prefix: int) -> None:
    alias = bittensor_core.ss58_encode(ALICE.public_key, prefix)
    with pytest.raises(Refusal) as refused:
        public_key(alias)
    assert (refused.value.status, refused.value.code) == (401, "hotkey_alias")


@pytest.mark.parametrize("text", ["", "5abc", ALICE.ss58_address[:-1], ALICE.ss58_address + "1", "0x" + "00" * 32])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        public_key(text)
    assert refused.value.status == 401


def test_signatures() -> None:
    hotkey = Hotkey(ALICE.ss58_address)
    signature = ALICE.sign(b"message")
    assert signed_by(hotkey, b"message", signature)
    assert not signed_by(hotkey, b"message", signature, "ed25519")
    assert not signed_by(hotkey, b"massage", signature)
    assert not signed_by(hotkey, b"message", signature[:-1])
    assert not signed_by(Hotkey("nobody"), b"message", signature)
