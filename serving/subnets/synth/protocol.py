"""Synth on the road of a request: ``POST /Simulation``, its tensors, its answer, and its validity rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from serving.errors import UNAVAILABLE, Refusal
from serving.state import AssetPrices, Points, PriceBook
from serving.subnets import fields
from serving.subnets.base import NO_PIN, Body, Inputs, Route, Subnet, Task, Tensors
from serving.subnets.synth.digits import FloatArray, round_prices
from serving.subnets.synth.encoder import encode
from serving.subnets.synth.request import Request, parse
from serving.subnets.synth.rules import MAX_TIMEOUT, NETUID, PROMPTS
from serving.subnets.synth.ticks import Ticks, to_ticks
from serving.subnets.synth.validity import fault
from serving.types import NetUid, Seconds, SlotName, UnixSeconds

FIELDS = frozenset({"simulation_input", "simulation_output"})
HISTORY_POINTS = 512


@dataclass
class Simulation:
    """The subnet's one synapse. Its legacy body hash covers nothing, so its inputs are unauthenticated."""

    max_price_age: float
    """Seconds after which a price is stale."""
    use_stale: bool
    """Answer from a stale price and mark it, rather than refuse."""
    synapse: str = "Simulation"
    hash_fields: Sequence[str] = ()
    model_order: Sequence[str] = ()
    monotonic_nonces: bool = False
    max_body: int = 16_384
    max_timeout: Seconds = MAX_TIMEOUT
    pin_s: Seconds = NO_PIN
    retry_status: int = UNAVAILABLE

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        """No field is hashed."""
        return []

    def parse(self, body: dict[str, Any], now: UnixSeconds) -> Task:
        """The task in a decoded JSON body at subnet time `now`; raises Refusal (400) in one clear line."""
        request = parse(body, now)
        canonical, given = request.canonical(), msgspec.json.encode(request.input)
        odd = fields.unknown(body, FIELDS) or fields.unknown(body["simulation_input"], request.input.__struct_fields__)
        drift = ("unknown_field",) if odd else ()
        return Task(request.slot, request, canonical, given=b"" if given == canonical else given, drift=drift)

    def restore(self, recorded: bytes, now: UnixSeconds) -> Task:
        """The task in a recorded ``simulation_input``."""
        return self.parse({"simulation_input": msgspec.json.decode(recorded)}, now)

    def inputs(self, task: Task, seed: int, prices: PriceBook | None, now: UnixSeconds) -> Inputs:
        """Tensors of the family synth_paths; raises Refusal (503) without a price that may be used."""
        request: Request = task.request
        known, recorded = self._price(request, prices, now)
        given = request.input
        history = known.history.get(str(request.prompt.history_step))
        tensors: dict[str, npt.NDArray[Any]] = {
            "PRICE": np.array([[known.spot]], dtype=np.float32),
            "HISTORY": history_tensor(history, known.spot, request.start)[np.newaxis],
            "START": np.array([[request.start]], dtype=np.int64),
            "GRID": np.array([[given.time_increment, given.time_length]], dtype=np.int32),
            "N": np.array([[given.num_simulations]], dtype=np.int32),
            "SEED": np.array([[seed]], dtype=np.uint64),
            "ASSET": np.array([[given.asset.encode()]], dtype=np.object_),
        }
        return Inputs(tensors, recorded)

    def _price(
        self, request: Request, prices: PriceBook | None, now: UnixSeconds
    ) -> tuple[AssetPrices, dict[str, Any]]:
        known = prices.assets.get(request.asset) if prices is not None else None
        if prices is None or known is None:
            raise Refusal(503, "no_price", "no price of this asset is known here yet", retry_after=30)
        if not (math.isfinite(known.spot) and known.spot > 0):
            raise Refusal(503, "bad_price", "the price of this asset is not usable", retry_after=30)
        if known.spot_time > request.start:  # recorded time was set back and the book has not followed yet
            raise Refusal(503, "price_ahead", "the price known here is later than the start time", retry_after=5)
        age = max(0.0, now - known.spot_time)
        stale = age > self.max_price_age
        if stale and not self.use_stale:
            raise Refusal(503, "stale_price", "the price of this asset is too old", retry_after=30)
        recorded = {
            "price": known.spot, "price_time": known.spot_time, "price_age": round(age, 3), "stale_price": stale,
            "source": known.source, "simulated": known.simulated, "proxy": known.proxy, "book_as_of": prices.as_of,
        }  # fmt: skip
        return known, recorded

    def answer(self, task: Task, outputs: Tensors) -> Ticks | FloatArray:
        """Paths (num_simulations, points) rounded by the digit rule; a wrong shape is left for `check`.

        As ticks, or as float64 where some price is too small, too large or not finite. `np.asarray` gives the prices.
        """
        paths: npt.NDArray[Any] = np.asarray(outputs.get("PATHS", np.empty((1, 0, 0))))
        if paths.dtype.kind != "f" or paths.ndim == 0:
            return np.empty((0, 0))
        paths = paths[0] if paths.ndim == 3 and paths.shape[0] == 1 else paths
        return to_ticks(paths) or round_prices(paths)

    def check(self, task: Task, answer: Any) -> str | None:
        """The validator's own validity rules, and every price finite and positive: None when valid, else the reason."""
        return fault(task.request, answer)

    def reply(self, task: Task, answer: Any, *, legacy: bool) -> Body:
        """``{"simulation_output": [start, increment, path, ...]}``, with the input before it for a legacy caller."""
        request: Request = task.request
        echo = b'"simulation_input":%b,' % msgspec.json.encode(request.input) if legacy else b""
        before = b'{%b"simulation_output":[%d,%d,' % (echo, request.start, request.input.time_increment)
        if isinstance(answer, Ticks):
            return encode(answer, before, b"]}")
        return before + orjson.dumps(np.ascontiguousarray(answer), option=orjson.OPT_SERIALIZE_NUMPY)[1:] + b"}"


def history_tensor(history: Points | None, spot: float, start: int) -> npt.NDArray[np.float32]:
    """HISTORY (2, 512): seconds before `start`, and ln(price / spot), oldest first, right-aligned, NaN on the left.

    Points after the start and prices that are not positive are left out.
    """
    tensor = np.full((2, HISTORY_POINTS), np.nan, dtype=np.float32)
    if history is None or not history.times:
        return tensor
    times = np.asarray(history.times, dtype=np.int64)
    prices = np.asarray(history.prices, dtype=np.float64)
    good = (times <= start) & np.isfinite(prices) & (prices > 0)
    times, prices = times[good][-HISTORY_POINTS:], prices[good][-HISTORY_POINTS:]
    if times.size:
        tensor[0, -times.size :] = start - times
        tensor[1, -times.size :] = np.log(prices / spot)
    return tensor


@dataclass
class Synth:
    """Subnet 50."""

    routes: Sequence[Route]
    name: str = "synth"
    netuid: NetUid = NETUID
    slots: Sequence[SlotName] = field(default_factory=lambda: tuple(PROMPTS))


def synth(max_price_age: float = 600.0, *, use_stale: bool = False) -> Subnet:
    """Synth with an age limit (s) on prices; `use_stale` (profile ``local``) answers from older ones and marks them."""
    return Synth(routes=(Simulation(max_price_age=max_price_age, use_stale=use_stale),))


SYNTH: Subnet = synth()
