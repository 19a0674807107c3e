"""The seed is a function of slot and inputs only, spelt out here once."""

from __future__ import annotations

import hashlib

from serving.seed import seed_of
from serving.types import SlotName


def test_seed_is_the_head_of_the_hash() -> None:
    digest = hashlib.sha256(b'synth-low\n{"asset":"BTC"}').digest()
    expected = int.from_bytes(digest[:8], "big") & 0x7FFF_FFFF_FFFF_FFFF
    assert seed_of(SlotName("synth-low"), b'{"asset":"BTC"}') == expected


def test_slot_and_inputs_both_count() -> None:
    seeds = {seed_of(SlotName(slot), body) for slot in ("synth-low", "synth-high") for body in (b"a", b"b")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
