"""Reads the golden vectors: what JSON cannot say is tagged there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving.subnets.synth.request import Request, SimulationInput, unix_of

DATA = Path(__file__).resolve().parents[3] / "data"


def load(name: str) -> Any:
    """A vector file with its tags resolved."""
    return plain(json.loads((DATA / name).read_text()))


def plain(value: Any) -> Any:
    """Tags ``$float``, ``$tuple``, ``$dict`` turned into the Python value they stand for."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$float"}:
        return float(value["$float"])
    if set(value) == {"$tuple"}:
        return tuple(plain(value["$tuple"]))
    if set(value) == {"$dict"}:
        return {key: plain(item) for key, item in value["$dict"]}
    return {key: plain(item) for key, item in value.items()}


def request(
    asset: str = "BTC",
    start_time: str = "2026-03-14T15:09:00+00:00",
    time_increment: int = 60,
    time_length: int = 3600,
    num_simulations: int = 3,
) -> Request:
    """A request as the validity rules see it, on any grid."""
    given = SimulationInput(asset, start_time, time_increment, time_length, num_simulations)
    return Request(input=given, start=unix_of(start_time))
