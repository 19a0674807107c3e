"""Which subnet serves which slot, and how a subnet is made from its description."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, cast

from serving.config import SubnetSpec
from serving.errors import UserError
from serving.subnets.base import Subnet

FACTORIES = {
    "synth": "serving.subnets.synth.protocol:synth",
    "itsai": "serving.subnets.itsai.protocol:itsai",
    "poker44": "serving.subnets.poker44.protocol:poker44",
}
"""By the part of a slot's name before the first dash. A new subnet adds one line here."""
OPTIONS = {"synth": ("max_price_age", "use_stale")}
"""What a factory takes; one that is not named here takes nothing."""


def specs(slots: Sequence[str], **options: Any) -> list[SubnetSpec]:
    """What to make for these slots; of the `options` each factory gets those that it takes."""
    wanted: list[str] = []
    for slot in slots:
        name = slot.partition("-")[0]
        if name not in FACTORIES:
            known = ", ".join(sorted(FACTORIES))
            raise UserError(f"setting slots: no subnet serves {slot!r}; known subnets: {known}")
        if name not in wanted:
            wanted.append(name)
    return [
        SubnetSpec(FACTORIES[name], {key: options[key] for key in OPTIONS.get(name, ()) if key in options})
        for name in wanted
    ]


def make(described: Iterable[SubnetSpec]) -> list[Subnet]:
    """The subnets; raises UserError when one cannot be made."""
    return [_make(spec) for spec in described]


def _make(spec: SubnetSpec) -> Subnet:
    module, _, factory = spec.factory.partition(":")
    try:
        return cast(Subnet, getattr(import_module(module), factory)(**spec.options))
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"subnet {spec.factory} cannot be made: {error}") from None
