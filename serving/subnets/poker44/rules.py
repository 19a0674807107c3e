"""Poker44's numbers and the shape of its items, as of 0.2.10 (2026-08-14)."""

from __future__ import annotations

from collections.abc import Mapping

from serving.types import NetUid, Seconds, SlotName

NETUID = NetUid(126)
SLOT = SlotName("poker44")
MAX_TIMEOUT = Seconds(180.0)
MAX_BODY = 16 * 1024 * 1024
"""Bytes, as in the reference miner; its limit of 256 items is not kept, since a refused request earns nothing."""

CONTRACT = "microsession-v1"
SCHEMA = "4.1"
DECISIONS = 4
ITEM_KEYS = frozenset({"schema_version", "item_id", "window_id", "decisions"})
CHOICES: Mapping[str, frozenset[str]] = {
    "phase": frozenset({"preflop", "flop", "turn", "river"}),
    "position_group": frozenset({"early", "late", "blinds"}),
    "pressure": frozenset({"facing_bet", "no_call"}),
    "action_type": frozenset({"fold", "check", "call", "bet", "raise", "all_in"}),
    "size_bucket": frozenset(
        {
            "not_applicable", "unknown", "third_pot_or_less", "half_pot", "three_quarter_pot", "pot", "overbet",
            "all_in",
        }
    ),
}  # fmt: skip
"""What the words of a decision may be."""
DECISION_KEYS = frozenset(CHOICES) | {"decision_number", "is_all_in"}
FORBIDDEN = frozenset({"actor_group", "bot_family", "ground_truth", "is_bot", "is_human", "label"})
"""Keys that tell the truth; no item may hold one, at any depth and in any letter case."""
MAX_ID = 128
"""Characters of an id in the published schema."""
