"""JSON bodies of every route, and mutations of their structure."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

_TERMINAL = {"status_code": None, "hotkey": None, "process_time": None, "ip": None}
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.0, 1e308, -1e-320, 2**31, 2**63, 2**64, -(10**40), 10**300, 10**4000, float("nan"),
    float("inf"), "", "0", "1e5", "NaN", "x" * 3000, "\ud800", "\udfff\ud83d", "\0\r\n", "\u202e\ufeff", "é" * 40,
    [], {}, [[]], {"": None}, [0] * 2000, {"x": {"x": {"x": []}}},
)  # fmt: skip
POKER_HASHED = ("contract_version", "window_id", "dataset_hash", "query_id", "items")


def _echo(rng: random.Random) -> dict[str, Any]:
    return {"x": [round(rng.random(), 3) for _ in range(rng.randrange(6))]}


def _simulation(rng: random.Random) -> dict[str, Any]:
    grid = rng.choice(((300, 86_400), (60, 3_600)))
    given = {
        "asset": rng.choice(("BTC", "BTC", "ETH")), "start_time": "2099-01-01T00:00:00+00:00",
        "time_increment": grid[0], "time_length": grid[1], "num_simulations": rng.choice((1, 1, 1, 7)),
    }  # fmt: skip
    return {"simulation_input": given}


def _texts(rng: random.Random) -> dict[str, Any]:
    texts = ["the quick brown fox " * rng.randrange(1, 5) for _ in range(rng.randrange(1, 4))]
    return {"texts": texts, "predictions": [], "version": "", "deployment_info": []}


def _poker(rng: random.Random) -> dict[str, Any]:
    item = {"hand_id": str(rng.randrange(99)), "actions": [{"street": "preflop", "amount": 1.5}], "label": None}
    return {
        "contract_version": "1", "window_id": "w", "dataset_hash": "ab" * 32, "query_id": str(rng.random()),
        "items": [item] * rng.randrange(3),
    }  # fmt: skip


BODIES: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "Echo": _echo,
    "Simulation": _simulation,
    "TextSynapse": _texts,
    "MicroSessionDetectionSynapse": _poker,
    "Synapse": lambda rng: {},
}
"""Good input fields by synapse."""


def hashed_values(synapse: str, fields: dict[str, Any]) -> list[Any]:
    """What an honest signer of these fields would hash; for broken fields, what it might."""
    if synapse == "Echo":
        x = fields.get("x")
        plain = isinstance(x, list) and all(type(value) in (int, float) and abs(value) < 1e300 for value in x)
        return [[float(value) for value in x] if plain and x else x]
    if synapse == "MicroSessionDetectionSynapse":
        return [fields.get(name) for name in POKER_HASHED]
    return []


def terminals(synapse: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The whole legacy body around the fields."""
    return {"name": synapse, "timeout": 12.0, "dendrite": _TERMINAL, "axon": _TERMINAL, **fields}


def mutated(rng: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one node replaced, removed, added, doubled or buried."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        return _changed_object(rng, value, key) if rng.random() < 0.3 else {**value, key: mutated(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(rng, value[at]), *value[at + 1 :]]
    if rng.random() < 0.1:
        for _ in range(rng.choice((3, 100, 400))):
            value = [value]
        return value
    return rng.choice(_ODD)


def _changed_object(rng: random.Random, value: dict[str, Any], key: str) -> dict[str, Any]:
    how = rng.randrange(4)
    if how == 0:
        return {name: each for name, each in value.items() if name != key}
    if how == 1:
        return {**value, rng.choice(("x", "", "axon", "dendrite", "extra", "__class__")): rng.choice(_ODD)}
    if how == 2:
        return {(name.upper() if name == key else name): each for name, each in value.items()}
    return dict(reversed(value.items()))


def as_text(rng: random.Random, value: Any) -> bytes:
    """JSON bytes, now and then in a spelling that no encoder of ours would choose."""
    separators = (",", ":") if rng.random() < 0.5 else None
    try:
        text = json.dumps(value, separators=separators)
    except RecursionError:
        return b"[" * 2000 + b"]" * 2000
    how = rng.random()
    if how < 0.04:
        text = text.replace("{", '{"x":[1],', 1)  # perhaps a key twice
    elif how < 0.06:
        text = text.replace("1", "1" * 5000, 1)
    elif how < 0.08:
        text = "[" * rng.choice((50, 5000)) + text
    elif how < 0.10:
        text = "\ufeff" + text
    elif how < 0.12:
        return text.encode("utf-16")
    return text.encode("utf-8", "surrogatepass")
