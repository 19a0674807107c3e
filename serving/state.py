"""The files that serving reads and others replace atomically: routes, neurons and prices.

Serving waits for nothing outside its box, so whatever it needs from outside lies in these three files below
``<home>/serving/``. Each carries the time it was written; its age and its age limit are serving's business.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from serving.clock import replace_file
from serving.types import Asset, Hotkey, ReleaseId, SlotName


class Canary(msgspec.Struct, frozen=True):
    """A release that answers a share of a slot's requests, chosen by a stable hash."""

    release: ReleaseId
    share_bp: int
    """Basis points of the slot's traffic, 0 to 10000."""


class SlotRoute(msgspec.Struct, frozen=True):
    """Which releases of a slot are live."""

    stable: ReleaseId | None = None
    canary: Canary | None = None
    shadow: ReleaseId | None = None
    """Gets a copy of every request, off the deadline path; its answer is recorded and never sent."""
    fallback: ReleaseId | None = None
    """Answers when another release's answer fails the validator's rules: the previous stable, if still loaded."""


class RouteTable(msgspec.Struct, frozen=True):
    """``routes.json``: written from the ledger by rollout and by the sidecar."""

    generation: int
    written_at: float
    slots: dict[SlotName, SlotRoute]

    def releases(self) -> list[ReleaseId]:
        """Every release that it names, the stable ones first."""
        slots = self.slots.values()
        names = [slot.stable for slot in slots]
        names += [slot.canary.release for slot in slots if slot.canary]
        names += [name for slot in slots for name in (slot.fallback, slot.shadow)]
        return list(dict.fromkeys(name for name in names if name is not None))


class Neuron(msgspec.Struct, frozen=True):
    """One neuron of the subnet as the chain has it."""

    hotkey: Hotkey
    uid: int
    stake: float
    """Stake weight in the subnet, in TAO."""
    validator_permit: bool


class NeuronTable(msgspec.Struct, frozen=True):
    """``neurons.json``: the subnet's neurons."""

    netuid: int
    written_at: float
    neurons: list[Neuron]


class OtherSubnet(ValueError):
    """A table that is another subnet's: the settings have changed, and nobody has read the chain since."""


def check_netuid(table: NeuronTable, netuid: int) -> None:
    """Raise OtherSubnet unless the table is of this subnet: who validates there need not validate here."""
    if table.netuid != netuid:
        raise OtherSubnet(f"neurons of subnet {table.netuid}, not {netuid}")


class Points(msgspec.Struct, frozen=True):
    """Prices at instants, oldest first."""

    times: list[int]
    """Unix seconds at which the price held."""
    prices: list[float]


class AssetPrices(msgspec.Struct, frozen=True):
    """What is known of one asset's price at `PriceBook.as_of`."""

    spot: float
    spot_time: int
    """Unix s; the price's age is as_of - spot_time."""
    source: str
    simulated: bool
    proxy: bool
    history: dict[str, Points]
    """Keyed by the step in seconds as text (``"60"``, ``"3600"``), at most 512 points each, known by `as_of`."""


class PriceBook(msgspec.Struct, frozen=True):
    """``prices.json``: recent prices of every asset, as known at subnet time `as_of`."""

    as_of: float
    """Subnet time, unix s."""
    written_at: float
    """Wall time, unix s."""
    assets: dict[Asset, AssetPrices]


class Pause(msgspec.Struct, frozen=True):
    """``pause.json``: while it is there, every request is answered 503."""

    reason: str
    since: float
    """Wall time, unix s."""


def read_pause(path: Path) -> Pause | None:
    """The pause in force, if any; a file that cannot be read is one too, for only a pause puts it there."""
    if not os.path.exists(path):  # without opening it: a process that is short of files is not paused
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pause)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return Pause(f"{path.name} cannot be read", 0.0)


class ClockSkew(msgspec.Struct, frozen=True):
    """``clock-skew.json``: what time servers said of this machine's clock."""

    written_at: float
    skew_s: float | None
    """Seconds that our clock is ahead of theirs, negative when it is behind; None when none answered."""
    answered: int
    asked: int


def write_state(path: Path, state: RouteTable | NeuronTable | PriceBook | Pause | ClockSkew) -> None:
    """Replace a state file atomically."""
    replace_file(path, msgspec.json.encode(state))
