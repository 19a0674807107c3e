"""A request of Poker44: its typed fields, the plain refusal of each bad one, and what is odd about a good one.

A request that the validator's own check accepts is accepted here, because a refused one earns nothing. That check is
looser than the published schema; what passes the one and not the other is named as drift.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from serving.errors import Refusal
from serving.subnets import fields
from serving.subnets.poker44.rules import (
    CHOICES,
    CONTRACT,
    DECISION_KEYS,
    DECISIONS,
    FORBIDDEN,
    ITEM_KEYS,
    MAX_ID,
    SCHEMA,
)

HASHED = ("contract_version", "window_id", "dataset_hash", "query_id", "items")
"""The inputs, in the order in which the subnet declares them; its model has them in the same order."""
FIELDS = frozenset({*HASHED, "risk_scores", "predictions", "model_version"})
_HEX = frozenset("0123456789abcdef")

Item = dict[str, Any]


class Request(msgspec.Struct, frozen=True):
    """A request that passed every check; items as they came, since the legacy hash is over their very order."""

    contract_version: str
    window_id: str
    dataset_hash: str
    query_id: str
    items: list[Item]

    def spelt(self) -> bytes:
        """The inputs as JSON: fields in declared order, items as they came, which the subnet's hash tells apart too."""
        return _compact(msgspec.structs.asdict(self))


def typed(body: dict[str, Any]) -> Request:
    """The inputs as the SDK types them, with its defaults, not looked into yet; raises Refusal (400)."""
    items = body.get("items", [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Refusal(400, "bad_input", "items is not a list of objects")
    request = Request(
        fields.text(body, "contract_version", CONTRACT), fields.text(body, "window_id", ""),
        fields.text(body, "dataset_hash", ""), fields.text(body, "query_id", ""), items,
    )  # fmt: skip
    if request.contract_version != CONTRACT:
        raise Refusal(400, "unknown_contract", f"contract_version is not {CONTRACT}")
    return request


def parse(body: dict[str, Any]) -> Request:
    """The request in a decoded JSON body; raises Refusal (400)."""
    request = typed(body)
    digest = request.dataset_hash.strip().lower()
    if len(digest) != 64 or not _HEX.issuperset(digest):
        raise Refusal(400, "bad_dataset_hash", "dataset_hash is not 64 hex digits")
    if not request.window_id.strip() or not request.query_id.strip():
        raise Refusal(400, "blank_id", "window_id or query_id is blank")
    if not request.items:
        raise Refusal(400, "no_items", "items is empty")
    for number, item in enumerate(request.items):
        wrong = _wrong(item)
        if wrong:
            raise Refusal(400, "bad_item", f"items[{number}] {wrong}")
    return request


def _wrong(item: Item) -> str | None:
    if any(key.lower() in FORBIDDEN for key in _keys(item)):
        return "holds a key that tells the truth"
    if item.keys() != ITEM_KEYS or str(item["schema_version"]) != SCHEMA:
        return f"is not of schema {SCHEMA}"
    if not all(str(item[key] or "").strip() for key in ("item_id", "window_id")):
        return "has a blank item_id or window_id"
    decisions = item["decisions"]
    if not isinstance(decisions, list) or len(decisions) != DECISIONS:
        return f"has not {DECISIONS} decisions"
    wrong = [found for found in map(_wrong_decision, decisions) if found]
    if wrong:
        return f"has a decision that {wrong[0]}"
    return "has no decision from the flop on" if all(one["phase"] == "preflop" for one in decisions) else None


def _wrong_decision(decision: object) -> str | None:
    if not isinstance(decision, dict) or decision.keys() != DECISION_KEYS:
        return "has not the keys of one"
    if not isinstance(decision["decision_number"], int):
        return "has a decision_number that is not whole"
    if not isinstance(decision["is_all_in"], bool):
        return "has an is_all_in that is neither true nor false"
    for key, words in CHOICES.items():
        if not isinstance(decision[key], str) or decision[key] not in words:
            return f"has an unknown {key}"
    return None


def _keys(value: object) -> Iterator[str]:
    """Every key at any depth; deep nesting cannot run the stack out."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def drift(request: Request, body: dict[str, Any]) -> Sequence[str]:
    """How a good request strays from the published schema and from what the subnet says of itself."""
    items = request.items
    numbers = [[decision["decision_number"] for decision in item["decisions"]] for item in items]
    ids = [item["item_id"] for item in items]
    signs = {
        "unknown_field": fields.unknown(body, FIELDS),
        "dataset_hash_spelling": request.dataset_hash != request.dataset_hash.strip().lower(),
        "dataset_hash_of_other_items": request.dataset_hash.strip().lower() != dataset_hash(items),
        "schema_version_type": any(not isinstance(item["schema_version"], str) for item in items),
        "item_id_type": any(not isinstance(given, str) or len(given) > MAX_ID for given in ids),
        "item_id_repeats": len(set(map(str, ids))) < len(ids),
        "item_window": any(item["window_id"] != request.window_id for item in items),
        "decision_number": any(type(n) is not int or n < 1 for some in numbers for n in some),
        "decision_number_repeats": any(len(set(some)) < len(some) for some in numbers),
    }
    return [name for name, found in signs.items() if found]


def dataset_hash(items: Sequence[Item]) -> str:
    """sha256 of the items as compact JSON with sorted keys, lower-case hex, as the subnet computes it."""
    return sha256(_compact(items, sort_keys=True)).hexdigest()


def decisions_text(item: Item) -> bytes:
    """What a model may see of an item: its decisions as compact JSON with sorted keys."""
    return _compact(item["decisions"], sort_keys=True)


def _compact(value: object, *, sort_keys: bool = False) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys).encode()
