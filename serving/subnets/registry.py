"""Which subnet serves which slot, and how a subnet is made from its description."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, cast

from serving.config import SubnetSpec
from serving.errors import UserError
from serving.subnets.base import Subnet

FACTORIES = {"synth": "serving.subnets.synth.protocol:synth"}
"""By the part of a slot's name before the first dash. A new subnet adds one line here."""


def specs(slots: Sequence[str], **options: Any) -> list[SubnetSpec]:
    """What to make for these slots; `options` (``max_price_age``, ``use_stale``) go to every factory."""
    wanted: list[str] = []
    for slot in slots:
        name = slot.partition("-")[0]
        if name not in FACTORIES:
            known = ", ".join(sorted(FACTORIES))
            raise UserError(f"setting slots: no subnet serves {slot!r}; known subnets: {known}")
        if name not in wanted:
            wanted.append(name)
    return [SubnetSpec(FACTORIES[name], dict(options)) for name in wanted]


def make(described: Iterable[SubnetSpec]) -> list[Subnet]:
    """The subnets; raises UserError when one cannot be made."""
    return [_make(spec) for spec in described]


def _make(spec: SubnetSpec) -> Subnet:
    module, _, factory = spec.factory.partition(":")
    try:
        return cast(Subnet, getattr(import_module(module), factory)(**spec.options))
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"subnet {spec.factory} cannot be made: {error}") from None
