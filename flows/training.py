"""What a fit may see, and a first look at the fitted model on training sessions it has not seen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flows import plots
from flows.progress import Progress
from flows.replays import PATHS, Replay, ask, training_replays
from flows.split import Split
from infra.prices import STEPS, PriceStore
from serving.subnets.base import Tensors
from serving.subnets.synth.baselines import FIELD
from serving.subnets.synth.scoring import prompt_score
from serving.types import Asset
from triton_models.synth_paths.model import simulate
from triton_models.synth_paths.train import Params, Training

REFERENCE = "reference-gaussian"
INNER = 0.25
"""The last part of the training sessions, set aside for the first look."""
LOOKS = 24
"""Replays of the first look at most."""

Data = dict[str, dict[int, Training]]
Floats = npt.NDArray[np.float64]


def training_data(store: PriceStore, until: int) -> Data:
    """Every real series as it was known before `until` (unix s), by asset and step."""
    data: Data = {}
    real = {(s.asset, s.proxy) for s in store.series() if not s.simulated}
    stored = {(s.asset, s.step) for s in store.series() if not s.simulated}
    for asset, proxy in sorted(real):
        for step in STEPS:
            if (asset, step) not in stored:
                continue
            points = store.points(asset, step, known_by=until - 1)
            if points.times:
                times, prices = np.array(points.times, dtype=np.int64), np.array(points.prices, dtype=np.float64)
                data.setdefault(asset, {})[step] = Training(times, prices, step, simulated=False, proxy=proxy)
    return data


def digest(data: Data) -> str:
    """sha256 over every time and price that a fit sees."""
    found = hashlib.sha256()
    for asset, by_step in sorted(data.items()):
        for step, points in sorted(by_step.items()):
            found.update(f"{asset}/{step}/{len(points.times)}\n".encode())
            found.update(points.times.astype("<i8").tobytes() + points.prices.astype("<f8").tobytes())
    return found.hexdigest()


def inner_cut(split: Split) -> tuple[int, int]:
    """How many training sessions are set aside for the first look, and where they begin (unix s)."""
    aside = max(1, round(INNER * len(split.train)))
    return aside, split.train[-aside].first


@dataclass(frozen=True)
class FirstLook:
    """Inner validation: fitted on what ends before `begins`, scored on training sessions after it. No held-out data."""

    begins: int
    replays: Sequence[Replay]
    total: float
    """Mean prompt score, basis points."""
    reference: float
    """The same of the reference miner's Gaussian."""
    by_interval: Mapping[str, Mapping[str, float]]
    """Mean CRPS sum by asset and interval set."""
    last_paths: Floats

    @property
    def change_pct(self) -> float:
        """Against the reference, percent; no interval, since so few windows carry none."""
        return 100.0 * (self.total / self.reference - 1.0) if self.reference > 0 else float("nan")

    def metrics(self) -> dict[str, float]:
        """For MLflow, every name beginning with ``inner.``."""
        flat = {
            f"inner.crps.{asset}.{interval}": value
            for asset, parts in self.by_interval.items()
            for interval, value in parts.items()
        }
        whole = {"inner.crps": self.total, "inner.reference": self.reference, "inner.change_pct": self.change_pct}
        return whole | {"inner.replays": float(len(self.replays))} | flat


def first_look(store: PriceStore, split: Split, params: Params, progress: Progress) -> FirstLook:
    """Score a model, fitted before the inner cut, on the training sessions after it."""
    aside, begins = inner_cut(split)
    replays = training_replays(store, split, aside, limit=LOOKS)
    totals: list[float] = []
    reference: list[float] = []
    parts: dict[str, dict[str, list[float]]] = {}
    paths: Floats = np.empty((0, 0))
    for done, replay in enumerate(replays, start=1):
        prompt = split.grid.prompt
        asked = ask(replay.slot, replay.asset, replay.start, replay.book)
        paths = np.asarray(asked.route.answer(asked.task, {"PATHS": simulated(params, asked.inputs.tensors)}))
        score = prompt_score(paths, replay.truth, prompt)
        totals.append(score.total)
        for interval, value in score.per_interval.items():
            parts.setdefault(replay.asset, {}).setdefault(interval, []).append(value)
        theirs = FIELD[REFERENCE](
            Asset(replay.asset), replay.book, replay.start, prompt.increment, prompt.length, PATHS, asked.seed
        )
        reference.append(prompt_score(theirs, replay.truth, prompt).total)
        progress("inner validation", done, len(replays))
    means = {asset: {name: float(np.mean(v)) for name, v in found.items()} for asset, found in parts.items()}
    return FirstLook(begins, replays, float(np.mean(totals)), float(np.mean(reference)), means, paths)


def simulated(params: Params, tensors: Tensors, *, increment: int = 0, length: int = 0) -> npt.NDArray[np.float32]:
    """PATHS (1, n, points) for one request's tensors, by the very code that Triton runs; another grid if given (s)."""
    grid = tensors["GRID"][0]
    paths = simulate(
        params.as_dict(), float(tensors["PRICE"][0, 0]), tensors["HISTORY"][0], int(tensors["START"][0, 0]),
        increment or int(grid[0]), length or int(grid[1]), int(tensors["N"][0, 0]), int(tensors["SEED"][0, 0]),
        tensors["ASSET"][0, 0].decode(),
    )  # fmt: skip
    return paths[np.newaxis]


def pictures(split: Split, params: Params, look: FirstLook) -> dict[str, bytes]:
    """A fan chart of the last inner replay, and the model's volatility over the day that begins there."""
    replay = look.replays[-1]
    grid = split.grid
    minutes = np.arange(replay.truth.size) * grid.increment / 60.0
    title = f"{split.slot} {replay.asset}, training session, fitted before {_day(look.begins)}"
    asked = ask(replay.slot, replay.asset, replay.start, replay.book)
    day = simulated(params, asked.inputs.tensors, increment=300, length=86_400)[0].astype(np.float64)
    basis_points = 1e4 * np.diff(np.log(day), axis=1).std(axis=0)
    hours = np.arange(basis_points.size) / 12.0
    return {
        "plots/fan.png": plots.fan(title, minutes, look.last_paths, replay.truth),
        "plots/volatility.png": plots.profile(f"{title}: volatility of five minutes", hours, basis_points),
    }


def model_params(params: Params) -> dict[str, Any]:
    """What MLflow keeps of the fitted numbers: scalars of the assets that were fitted, and what was done, in words."""
    found: dict[str, Any] = {}
    for asset, numbers in params.assets.items():
        if numbers.get("kind") == "gaussian":
            continue
        found |= {f"{asset}.{k}": v for k, v in numbers.items() if isinstance(v, (int, float, str))}
        found[f"{asset}.note"] = params.notes.get(asset, "")[:500]
    return found


def _day(moment: int) -> str:
    from flows.split import when

    return when(moment)[:10]
