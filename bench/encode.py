"""A Synth 24 h answer as JSON bytes, from the model's float32 array: ours beside orjson and the standard library.

Run: ``.venv/bin/python -m bench.encode``. Interleaved rounds in one process, CPU milliseconds, medians. Ours rounds by
the digit rule, checks by the validator's and encodes; the rivals are given the rounded prices and only encode them,
as a list of lists (the way the subnet's own tooling has them), orjson from the array too.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import orjson
from rich.console import Console
from rich.table import Table

from serving.subnets.base import Task
from serving.subnets.synth.digits import round_prices
from serving.subnets.synth.encoder import encode
from serving.subnets.synth.protocol import SYNTH
from serving.subnets.synth.request import Request, SimulationInput, unix_of
from serving.subnets.synth.rules import LOW, PROMPTS
from serving.subnets.synth.ticks import to_ticks
from serving.subnets.synth.validity import CORRECT, fault, validity

ROUNDS, EACH = 9, 10
PROMPT = PROMPTS[LOW]
START = "2026-03-14T15:09:00+00:00"
SPOTS = {"97352.6": 97_352.6, "100000, mixed widths": 100_000.0, "0.62": 0.62}
"""By its label, where a walk starts; one crosses a power of ten, where prices have different numbers of decimals."""
TO_REACH = {"orjson, list": 1.9, "json, list": 18.0}

(ROUTE,) = SYNTH.routes
REQUEST = Request(SimulationInput("BTC", START, PROMPT.increment, PROMPT.length, 1000), unix_of(START))
TASK = Task(REQUEST.slot, REQUEST, b"")


def model_output(spot: float) -> npt.NDArray[np.float32]:
    """PATHS (1, 1000, 289) as Triton gives them, from a seeded random walk."""
    steps = np.random.default_rng(0).standard_normal((1, 1000, PROMPT.points)) * 3e-4
    return np.asarray(spot * np.exp(steps.cumsum(axis=2)), dtype=np.float32)


def bytes_of(paths: npt.NDArray[np.float32]) -> memoryview:
    """Round and encode, no more."""
    ticks = to_ticks(paths[0])
    if ticks is None:
        raise ValueError("these prices are outside the domain of ticks")
    return encode(ticks, b"[", b"]")


def whole(paths: npt.NDArray[np.float32]) -> bytes | memoryview:
    """Answer, check and reply, as the road of a request has them."""
    answer = ROUTE.answer(TASK, {"PATHS": paths})
    if ROUTE.check(TASK, answer) is not None:
        raise ValueError("the answer is not valid")
    return ROUTE.reply(TASK, answer, legacy=True)


def whole_generally(paths: npt.NDArray[np.float32]) -> bytes:
    """The same three steps with float64 prices and a general encoder."""
    answer = round_prices(paths[0])
    if fault(REQUEST, answer) is not None:
        raise ValueError("the answer is not valid")
    return bytes(ROUTE.reply(TASK, answer, legacy=True))


def ways(paths: npt.NDArray[np.float32]) -> Mapping[str, Callable[[], object]]:
    """What is measured, by name."""
    rounded = round_prices(paths[0])
    rows = rounded.tolist()
    return {
        "ours": lambda: bytes_of(paths),
        "orjson, array": lambda: orjson.dumps(rounded, option=orjson.OPT_SERIALIZE_NUMPY),
        "orjson, list": lambda: orjson.dumps(rows),
        "json, list": lambda: json.dumps(rows),
        "answer, check, reply": lambda: whole(paths),
        "the same by orjson": lambda: whole_generally(paths),
    }


def proven(paths: npt.NDArray[np.float32]) -> bool:
    """Whether the validator's literal rule takes our bytes, and they hold the very prices that the rivals encode."""
    sent = json.loads(bytes(whole(paths)))["simulation_output"]
    return validity(REQUEST, "1", sent) == CORRECT and sent[2:] == round_prices(paths[0]).tolist()


def measure(paths: npt.NDArray[np.float32]) -> dict[str, float]:
    """Median CPU milliseconds of each way."""
    took: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        for name, way in ways(paths).items():
            times = 2 if name.startswith("json") else EACH
            began = time.process_time()
            for _ in range(times):
                way()
            if number:  # the first round warms up
                took.setdefault(name, []).append((time.process_time() - began) / times * 1e3)
    return {name: statistics.median(values) for name, values in took.items()}


def main() -> int:
    """Measure, print the table; 1 when an answer is not what the validator wants or a figure is missed."""
    table = Table("prices from", "way", "ms CPU", "times ours", "to reach", box=None)
    good = True
    for label, spot in SPOTS.items():
        paths = model_output(spot)
        good &= proven(paths)
        found = measure(paths)
        for name, ms in found.items():
            base = found["answer, check, reply" if name == "the same by orjson" else "ours"]
            goal = TO_REACH.get(name)
            good &= goal is None or ms / base >= goal
            table.add_row(
                label if name == "ours" else "", name, f"{ms:.2f}", f"{ms / base:.1f}", f"{goal:g}" if goal else ""
            )
    Console().print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
