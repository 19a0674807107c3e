"""Fields of a decoded JSON body, read as the SDK's pydantic types read them."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from serving.errors import Refusal

SYNAPSE = frozenset(
    {"name", "timeout", "total_size", "header_size", "dendrite", "axon", "computed_body_hash", "required_hash_fields"}
)
"""What every legacy body carries beside the subnet's own fields."""


def text(body: dict[str, Any], name: str, default: str) -> str:
    """A field of type ``str``, which pydantic takes from text only; raises Refusal (400)."""
    value = body.get(name, default)
    if not isinstance(value, str):
        raise Refusal(400, "bad_input", f"{name} is not text")
    return value


def unknown(body: dict[str, Any], known: Container[str]) -> bool:
    """Whether a body has fields that the subnet's schema, as we know it, does not: a sign that the schema moves."""
    return any(name not in known and name not in SYNAPSE for name in body)
