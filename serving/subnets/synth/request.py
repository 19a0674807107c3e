"""A Synth request: its typed fields, and the plain refusal of each bad one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from serving.errors import Refusal
from serving.subnets.synth.rules import ASSETS, MAX_SIMULATIONS, PROMPTS, Prompt
from serving.types import Asset, SlotName, UnixSeconds

_GRIDS = {(prompt.increment, prompt.length): prompt for prompt in PROMPTS.values()}


class SimulationInput(msgspec.Struct, frozen=True):
    """``simulation_input`` as it is on the wire; its fields echo with equal values."""

    asset: str
    start_time: str
    """ISO 8601 with an offset."""
    time_increment: int
    """Seconds."""
    time_length: int
    """Seconds."""
    num_simulations: int = 1


class Request(msgspec.Struct, frozen=True):
    """A request that passed every check."""

    input: SimulationInput
    start: int
    """Unix s of `start_time`."""

    @property
    def points(self) -> int:
        """Points of each path, the start included."""
        return self.input.time_length // self.input.time_increment + 1

    @property
    def asset(self) -> Asset:
        return Asset(self.input.asset)

    @property
    def slot(self) -> SlotName:
        return self.prompt.slot

    @property
    def prompt(self) -> Prompt:
        return _GRIDS[self.input.time_increment, self.input.time_length]

    def canonical(self) -> bytes:
        """The inputs as JSON in one spelling; parsing it again gives the same answer."""
        return msgspec.json.encode(msgspec.structs.replace(self.input, start_time=utc_text(self.start)))


def utc_text(start: int) -> str:
    """A start time as validators write it."""
    return datetime.fromtimestamp(start, UTC).isoformat()


def unix_of(start_time: str) -> int:
    """Whole seconds of an ISO 8601 instant, as the validator reads it; ValueError when it is not one."""
    try:
        return int(datetime.fromisoformat(start_time).timestamp())
    except OverflowError as error:
        raise ValueError(str(error)) from None


def parse(body: dict[str, Any], now: UnixSeconds) -> Request:
    """The request in a decoded JSON body at subnet time `now`; raises Refusal (400).

    Numbers may come as numeric text or integral floats, which the subnet's own message accepts too. `now` itself
    is still a good start.
    """
    given = _typed(body.get("simulation_input"))
    if given.asset not in ASSETS:
        raise _bad("unknown_asset", f"simulation_input.asset is none of {', '.join(ASSETS)}")
    if (given.time_increment, given.time_length) not in _GRIDS:
        grids = " or ".join(f"{increment} and {length}" for increment, length in _GRIDS)
        raise _bad("unknown_grid", f"simulation_input.time_increment and time_length must be {grids} seconds")
    if not 1 <= given.num_simulations <= MAX_SIMULATIONS:
        raise _bad("bad_num_simulations", f"simulation_input.num_simulations must be 1 to {MAX_SIMULATIONS}")
    return Request(input=given, start=_start(given.start_time, now))


def _typed(value: object) -> SimulationInput:
    if not isinstance(value, dict):
        raise _bad("bad_input", "simulation_input must be an object")
    try:
        return msgspec.convert(value, SimulationInput, strict=False)
    except msgspec.ValidationError as error:  # names our fields and types only, never a value
        raise _bad("bad_input", f"simulation_input: {error}") from None


def _start(text: str, now: UnixSeconds) -> int:
    if len(text) > 64:
        raise _bad("bad_start_time", "simulation_input.start_time is not an ISO 8601 time")
    try:
        moment = datetime.fromisoformat(text)
        start = moment.astimezone(UTC).timestamp()  # which has no year 10000 either
    except (ValueError, OverflowError):
        raise _bad("bad_start_time", "simulation_input.start_time is not an ISO 8601 time") from None
    if moment.tzinfo is None:
        raise _bad("naive_start_time", "simulation_input.start_time has no UTC offset")
    if start % 60:
        raise _bad("bad_start_time", "simulation_input.start_time is not a whole minute")
    if start < now:
        raise _bad("past_start_time", "simulation_input.start_time is in the past")
    return int(start)


def _bad(code: str, message: str) -> Refusal:
    return Refusal(400, code, message)
