"""Price paths for Synth: what Triton runs, in one file.

A release is this file beside a ``params.json``. Every asset in it has a kind:

- ``gaussian``: a random walk of constant hourly sigma, as the subnet's reference miner has it.
- ``trailing``: Gaussian steps whose variance is the recent one in HISTORY, spread over a variance clock.
- ``garch-t``: GARCH(1,1) with standardised Student-t innovations (Bollerslev 1987) on a variance clock, started from
  the conditional variance that HISTORY implies at the time of the request.

A variance clock says how much price variance passes between two instants, in hours of average trading, so that
the open, lunch, the night and the weekend each count for what they are, and returns measured on it have no time of
day left.

Only numpy and the standard library: Triton's interpreter has nothing else. Arrays are float32 and time runs along the
first axis, so the one loop is over time and never over paths. The same request gives the same bytes, whatever else is
in the batch: each request draws from a Philox generator of its own, keyed by its SEED.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

DAY, WEEK = 86_400, 604_800
FIRST_MONDAY = 4 * DAY
"""1970-01-05, the Monday from which weeks are counted."""
MAX_PATHS, MAX_POINTS = 1_000, 1_441
MAX_VARIANCE = 100.0
"""Cap on the conditional variance, in units of the long-run one: a bad tick in HISTORY must not blow the paths up."""
MAX_MIXING = 400.0
"""Cap on the Student-t's random variance: no bar moves at more than twenty times its own standard deviation."""
BACKCAST = 75
"""Returns that start the GARCH recursion, weighted by 0.94^i, as in the arch package."""


class BadInput(ValueError):
    """A request or a parameter that cannot be simulated; the message is one short line for the caller."""


# ------------------------------------------------------------------------------------------------- the variance clock


class VarianceClock(NamedTuple):
    """Cumulative variance over a local week, piecewise linear, and the borders of the GARCH model's bars."""

    zone: ZoneInfo
    edges: F64  # (k,) seconds since Monday 00:00 local, from 0 to WEEK
    hours: F64  # (k,) variance passed since then, in hours of average trading
    bars: F64  # (m,) seconds since Monday 00:00 local at which a bar begins

    def _local_week(self, times: I64) -> tuple[I64, I64]:
        """Number of the local week, and the second in it, of unix times (n,)."""
        hour_starts, inverse = np.unique(times // 3600, return_inverse=True)  # offsets change on whole hours only
        offsets = [datetime.fromtimestamp(int(h) * 3600, self.zone).utcoffset() for h in hour_starts]
        shift = np.array([o.total_seconds() if o else 0.0 for o in offsets], dtype=np.int64)
        week, second = np.divmod(times + shift[inverse] - FIRST_MONDAY, WEEK)
        return week, second

    def between(self, times: I64) -> F64:
        """Variance hours (n-1,) that pass between consecutive unix times (n,)."""
        week, second = self._local_week(times)
        reading: F64 = (week - week[0]) * self.hours[-1] + np.interp(second, self.edges, self.hours)
        passed: F64 = np.diff(reading)
        return np.maximum(passed, 0.0)  # a clock set back on a Sunday night reads lower: no variance then

    def bar_of(self, times: I64) -> I64:
        """Number (n,) of the bar that holds each unix time; the night from one close to the next open is one bar."""
        week, second = self._local_week(times)
        return np.asarray(week * len(self.bars) + np.searchsorted(self.bars, second, side="right"), dtype=np.int64)


def variance_clock(profile: Mapping[str, Any], step: int) -> VarianceClock:
    """The clock of a profile; bars last `step` seconds.

    ``{"clock": "flat"}``: time itself. ``{"clock": "day", "zone", "weights"}``: one weight, mean 1, for each equal part
    of the local day. ``{"clock": "session", "zone", "open", "close", "weights", "overnight", "weekend"}``: seconds
    after local midnight, one weight, mean 1, for each equal part of the session, and the variance from a close to the
    next open in hours of average trading, spread evenly over the closed time: a weekend moves little an hour.
    """
    kind = profile["clock"]
    zone = ZoneInfo(profile.get("zone", "UTC"))
    if kind == "flat":
        return VarianceClock(zone, np.array([0.0, WEEK]), np.array([0.0, WEEK / 3600]), np.arange(0.0, WEEK, step))
    weights = np.asarray(profile["weights"], dtype=np.float64)
    if kind == "day":
        edges = np.arange(7 * len(weights) + 1, dtype=np.float64) * (DAY / len(weights))
        gained = np.tile(weights, 7) * (24 / len(weights))
        return VarianceClock(zone, edges, np.concatenate([[0.0], np.cumsum(gained)]), np.arange(0.0, WEEK, step))
    if kind != "session":
        raise BadInput(f"unknown clock {kind!r}")
    return _session_clock(zone, weights, profile, step)


def _session_clock(zone: ZoneInfo, weights: F64, profile: Mapping[str, Any], step: int) -> VarianceClock:
    opens, closes, overnight, weekend = (profile[key] for key in ("open", "close", "overnight", "weekend"))
    length = closes - opens
    inside = opens + np.arange(len(weights) + 1) * (length / len(weights))  # (w+1,) borders of the session's parts
    gained = weights * (length / 3600 / len(weights))  # (w,) variance hours of each part
    night = 2 * DAY + DAY - length  # Friday's close to Monday's open, seconds
    before_monday = weekend * opens / night
    edges: list[float] = [0.0]
    hours: list[float] = [0.0]
    for day in range(5):
        edges.extend(day * DAY + inside)
        start = hours[-1] + (overnight if day else before_monday)
        hours.extend(start + np.concatenate([[0.0], np.cumsum(gained)]))
    edges.append(WEEK)
    hours.append(hours[-1] + weekend - before_monday)
    bars = [day * DAY + s for day in range(5) for s in (*range(opens, closes, step), closes)]
    return VarianceClock(zone, np.array(edges), np.array(hours), np.array(bars, dtype=np.float64))


# ------------------------------------------------------------------------------------------- what HISTORY says of today


class History(NamedTuple):
    """HISTORY without its padding."""

    times: I64  # (k,) unix seconds, oldest first
    logs: F64  # (k,) ln(price / spot)


def read_history(history: npt.NDArray[np.floating[Any]], start: int) -> History:
    """The points of a HISTORY tensor (2, 512); raises BadInput unless they run from old to new, none after `start`."""
    known = np.isfinite(history).all(axis=0)
    ago = history[0, known].astype(np.float64)
    if len(ago) and (ago[-1] < 0 or (np.diff(ago) >= 0).any()):
        raise BadInput("HISTORY must run from old to new and end at or before START")
    return History(start - np.rint(ago).astype(np.int64), history[1, known].astype(np.float64))


def squared_returns(history: History, clock: VarianceClock, sigma_hourly: float, step: int, gaps: bool) -> F64:
    """Squared returns (k-1,) with level and time of day taken out: mean about 1 in the long run.

    `gaps` keeps returns over more or less than `step` seconds, so that a night counts as a bar; else they are dropped.
    """
    if len(history.times) < 2:
        return np.empty(0)
    variance = clock.between(history.times) * sigma_hourly**2
    use = variance > 0
    if not gaps:
        use &= np.diff(history.times) == step
    squares: F64 = np.diff(history.logs)[use] ** 2 / variance[use]
    return squares


def conditional_variance(
    squares: Sequence[float], *, omega: float, alpha: float, beta: float, first: float
) -> list[float]:
    """GARCH(1,1) variance of each return and of the one to come: h' = omega + alpha z^2 + beta h (Bollerslev 1986).

    `squares` (k,) oldest first; returns (k+1,). `first` stands for both the squared return and the variance before.
    """
    h = omega + (alpha + beta) * first
    path = [h]
    for square in squares:
        h = omega + alpha * square + beta * h
        path.append(h)
    return path


def backcast(squares: F64) -> float:
    """A start for the recursion: the first squared returns, weighted 0.94^i."""
    weights = 0.94 ** np.arange(min(BACKCAST, len(squares)))
    return float(squares[: len(weights)] @ weights / weights.sum())


def variance_now(asset: Mapping[str, Any], history: History, clock: VarianceClock) -> float:
    """Variance of the bar that comes next, in units of the long-run one; 1 when HISTORY says too little."""
    squares = squared_returns(history, clock, asset["sigma_hourly"], asset["step"], asset["gaps"])
    if asset["kind"] == "trailing":
        recent = squares[-asset["window"] :]
        variance = float(recent.mean()) if len(recent) >= asset["window"] // 4 else 1.0
    elif len(squares) < 20:
        variance = 1.0
    else:
        omega, alpha, beta = asset["omega"], asset["alpha"], asset["beta"]
        variance = conditional_variance(squares.tolist(), omega=omega, alpha=alpha, beta=beta, first=backcast(squares))[
            -1
        ]
    return min(max(variance, 1.0 / MAX_VARIANCE), MAX_VARIANCE)


# ------------------------------------------------------------------------------------------------------ the simulation


def gaussian_paths(asset: Mapping[str, Any], rng: np.random.Generator, increment: int, steps: int, n: int) -> F32:
    """Growth since the spot (steps, n): products of 1 + e, e ~ N(0, sigma_hourly^2 * increment / 3600)."""
    growth = rng.standard_normal((steps, n), dtype=np.float32)
    growth *= np.float32(asset["sigma_hourly"] * math.sqrt(increment / 3600))
    growth += np.float32(1.0)
    return np.multiply.accumulate(growth, axis=0, out=growth)


def clock_paths(
    asset: Mapping[str, Any],
    rng: np.random.Generator,
    history: History,
    *,
    start: int,
    increment: int,
    steps: int,
    n: int,
) -> F32:
    """Growth since the spot (steps, n) of a ``garch-t`` or ``trailing`` asset.

    A bar's Student-t return is a Gaussian with a random variance, h * w with w = (nu / 2 - 1) / Gamma(nu / 2). All grid
    steps inside the bar share h and w and split the variance as the clock does, so the bar's sum has its exact law
    while the grid may be finer than the bars. Half of each step's variance is taken off: the price is a martingale.
    """
    clock = variance_clock(asset["profile"], asset["step"])
    times = start + increment * np.arange(steps + 1, dtype=np.int64)
    variance = (clock.between(times) * asset["sigma_hourly"] ** 2).astype(np.float32)  # (steps,)
    bars = clock.bar_of(times[:-1])  # (steps,)
    first = np.flatnonzero(np.concatenate([[True], bars[1:] != bars[:-1]])).tolist()  # each bar's first step
    omega, alpha, beta, nu = (asset.get(name) for name in ("omega", "alpha", "beta", "nu"))

    logs = rng.standard_normal((steps, n), dtype=np.float32)  # (steps, n) becomes ln(price / spot)
    if nu is not None:
        mixing = rng.standard_gamma(nu / 2, (len(first), n), dtype=np.float32)  # (bars, n)
        np.divide(np.float32(nu / 2 - 1), mixing, out=mixing)
        np.minimum(mixing, np.float32(MAX_MIXING), out=mixing)
    h = np.full(n, variance_now(asset, history, clock), dtype=np.float32)  # (n,)
    for bar, (a, b) in enumerate(zip(first, [*first[1:], steps], strict=True)):
        scale = h if nu is None else h * mixing[bar]  # (n,) variance of this bar, in units of the clock's
        block, split = logs[a:b], variance[a:b, None]  # (m, n), (m, 1)
        block *= np.sqrt(split)
        block *= np.sqrt(scale)
        if alpha is not None:
            total = block[0] if b - a == 1 else block.sum(axis=0)  # (n,) the bar's return
            passed = max(float(split.sum()), 1e-30)
            h = np.float32(omega) + total * total * np.float32(alpha / passed) + h * np.float32(beta)
            np.minimum(h, np.float32(MAX_VARIANCE), out=h)
        block -= (split * np.float32(0.5)) * scale
    np.add.accumulate(logs, axis=0, out=logs)
    return np.exp(logs, out=logs)


def simulate(  # noqa: PLR0917
    params: Mapping[str, Any],
    price: float,
    history: npt.NDArray[np.floating[Any]],
    start: int,
    increment: int,
    length: int,
    n: int,
    seed: int,
    asset: str,
) -> F32:
    """`n` price paths of `asset` from `price`, float32 (n, length / increment + 1), the first point the price itself.

    `start` unix s, `increment` and `length` s, `history` as the HISTORY tensor (2, any), `seed` 0 to 2^64 - 1. Raises
    BadInput, one short line, for anything that cannot be simulated.
    """
    price = float(np.float32(price))
    if not (math.isfinite(price) and price > 0):
        raise BadInput("PRICE must be positive and finite")
    if not 1 <= n <= MAX_PATHS:
        raise BadInput(f"N must be 1 to {MAX_PATHS}")
    if increment <= 0 or length <= 0 or length % increment or length // increment >= MAX_POINTS:
        raise BadInput(f"GRID must be an increment that divides a length, with at most {MAX_POINTS} points")
    if not 0 <= start < 2**33:
        raise BadInput("START must be unix seconds")
    chosen = params["assets"].get(asset)
    if chosen is None:
        raise BadInput("ASSET is not in this release")

    rng = np.random.Generator(np.random.Philox(key=seed))
    steps = length // increment
    if chosen["kind"] == "gaussian":
        growth = gaussian_paths(chosen, rng, increment, steps, n)
    else:
        growth = clock_paths(
            chosen, rng, read_history(history, start), start=start, increment=increment, steps=steps, n=n
        )
    paths = np.empty((n, steps + 1), dtype=np.float32)
    paths[:, 0] = price
    np.multiply(growth.T, np.float32(price), out=paths[:, 1:])  # (steps, n) -> (n, steps)
    return paths


def check_params(params: Mapping[str, Any]) -> None:
    """Raise BadInput naming the asset and the number that no model can be simulated with."""
    for name, asset in params["assets"].items():
        kind, sigma = asset.get("kind"), asset.get("sigma_hourly", math.nan)
        if kind not in {"gaussian", "trailing", "garch-t"}:
            raise BadInput(f"{name}: unknown kind {kind!r}")
        if not (math.isfinite(sigma) and 0 < sigma < 0.5):
            raise BadInput(f"{name}: sigma_hourly must be above 0 and below 0.5")
        if kind == "gaussian":
            continue
        clock = variance_clock(asset["profile"], asset["step"])
        if not (np.isfinite(clock.hours).all() and (np.diff(clock.hours) >= 0).all() and clock.hours[-1] > 0):
            raise BadInput(f"{name}: the profile's weights must be finite and not negative")
        if kind == "garch-t":
            omega, alpha, beta, nu = (asset[key] for key in ("omega", "alpha", "beta", "nu"))
            if not (omega > 0 and alpha >= 0 and beta >= 0 and alpha + beta < 1 and nu > 2):
                raise BadInput(f"{name}: needs omega > 0, alpha and beta >= 0, alpha + beta < 1, nu > 2")


# ---------------------------------------------------------------------------------------------------- Triton's own side


class TritonPythonModel:
    """Triton's entry: each request is simulated on its own, and one bad request fails alone."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the release; an exception here makes Triton refuse the load, with its text."""
        import triton_python_backend_utils as pb

        self.pb = pb
        folder = Path(args["model_repository"]) / args["model_version"]
        self.params = json.loads((folder / "params.json").read_bytes())
        check_params(self.params)
        manifest = (folder / "manifest.json").read_bytes()
        slot = json.loads(manifest)["slot"]
        self.release = f"{slot}-{hashlib.sha256(manifest).hexdigest()[:12]}"

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            paths = self._paths(request)
        except BadInput as error:
            return self._refuse(str(error))
        except Exception as error:
            return self._refuse(f"simulation failed: {type(error).__name__}")
        release = np.full((len(paths), 1), self.release.encode(), dtype=np.object_)
        return self.pb.InferenceResponse([self.pb.Tensor("PATHS", paths), self.pb.Tensor("RELEASE", release)])

    def _refuse(self, reason: str) -> Any:
        return self.pb.InferenceResponse(output_tensors=[], error=self.pb.TritonError(reason))

    def _paths(self, request: Any) -> F32:
        """PATHS (b, n, points) for inputs whose first axis is the batch (b,)."""

        def tensor(name: str) -> npt.NDArray[Any]:
            return np.asarray(self.pb.get_input_tensor_by_name(request, name).as_numpy())

        price, history, start, grid = tensor("PRICE"), tensor("HISTORY"), tensor("START"), tensor("GRID")
        n, seed, asset = tensor("N"), tensor("SEED"), tensor("ASSET")
        if (n != n[0]).any() or (grid != grid[0]).any():
            raise BadInput("N and GRID must be the same in the whole batch of a request")
        each = [
            simulate(
                self.params, float(price[i, 0]), history[i], int(start[i, 0]), int(grid[i, 0]), int(grid[i, 1]),
                int(n[i, 0]), int(seed[i, 0]), asset[i, 0].decode(errors="replace"),
            )
            for i in range(len(price))
        ]  # fmt: skip
        return each[0][None] if len(each) == 1 else np.stack(each)
