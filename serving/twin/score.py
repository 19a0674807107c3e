"""Keeps answers on disk until their prices came, scores them beside the field, and works out the incentive."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from serving.seed import seed_of
from serving.state import AssetPrices, PriceBook
from serving.subnets.synth.baselines import FIELD, Baseline
from serving.subnets.synth.digits import FloatArray
from serving.subnets.synth.rewards import Rows, combine, in_window, prompt_scores, rewards
from serving.subnets.synth.rules import PROMPTS, PUBLISH_DELAY
from serving.subnets.synth.scoring import INVALID, prompt_score, stored_score
from serving.twin.report import PromptRow
from serving.twin.schedule import Ask
from serving.types import Asset, SlotName

Truth = Callable[[str, int, int, int], FloatArray]
"""(asset, start unix s, increment s, length s) to prices, NaN where none is known."""

OURS = "headframe"


class _Pending(NamedTuple):
    row: PromptRow
    ask: Ask
    known: Path
    """Where the prices lie that were known when it was asked."""
    answer: Path | None
    """Where the paths lie; None when the answer was invalid."""
    n: int


class Scoreboard:
    """One validator's view of us and of the named field.

    A prompt that was asked more than once counts once, by its first answer, as validators thin them. Paths and the
    prices known at the time wait for their truth on disk, a day of them being too much to hold.
    """

    def __init__(self, truth: Truth, field: Mapping[str, Baseline] = FIELD) -> None:
        self._truth = truth
        self._field = field
        self._names = (OURS, *field)
        self._folder = tempfile.TemporaryDirectory(prefix="headframe-twin-")
        self._pending: list[_Pending] = []
        self._sums: dict[Ask, list[float]] = {}
        self._kept = 0
        self._lost: set[Ask] = set()

    def close(self) -> None:
        """Delete the answers kept."""
        self._folder.cleanup()

    def add(self, row: PromptRow, paths: FloatArray | None, book: PriceBook, n: int) -> None:
        """Take in an answer: paths (n, points) when it is valid, None otherwise."""
        ask = Ask(SlotName(row.slot), Asset(row.asset), row.start)
        row.terms_full = PROMPTS[ask.slot].terms
        known = book.assets.get(ask.asset)
        if known is None:
            self._lost.add(ask)
            return
        row.simulated, row.proxy = known.simulated, known.proxy
        self._kept += 1
        file = Path(self._folder.name) / f"{self._kept}.prices"
        file.write_bytes(msgspec.msgpack.encode(known))
        answer = None
        if paths is not None:
            answer = file.with_suffix(".npy")
            np.save(answer, paths)
        self._pending.append(_Pending(row, ask, file, answer, n))

    def settle(self, now: float | None = None) -> int:
        """Score what can be scored, and tell how many answers still wait for their price.

        `now` (subnet's unix s) None means that all truth there will ever be is there; otherwise an answer waits until
        its last price is published and known.
        """
        waiting = []
        for one in self._pending:
            prompt = PROMPTS[one.ask.slot]
            if now is not None and now < one.ask.start + prompt.length + PUBLISH_DELAY:
                waiting.append(one)
                continue
            real = self._truth(one.ask.asset, one.ask.start, prompt.increment, prompt.length)
            if now is not None and np.isnan(real[-1]):
                waiting.append(one)
            else:
                self._score(one, real)
        self._pending = waiting
        return len(waiting)

    def _score(self, one: _Pending, real: FloatArray) -> None:
        prompt = PROMPTS[one.ask.slot]
        known = msgspec.msgpack.decode(one.known.read_bytes(), type=AssetPrices)
        paths = np.load(one.answer) if one.answer else None
        for file in filter(None, (one.known, one.answer)):
            file.unlink()
        one.row.terms = prompt_score(np.ones((1, prompt.points)), real, prompt).n_terms
        if not one.row.terms:
            self._lost.add(one.ask)
            return
        one.row.crps = INVALID if paths is None else stored_score(paths, real, prompt)
        if one.ask not in self._sums:
            self._sums[one.ask] = [one.row.crps, *self._field_sums(one.ask, known, one.n, real)]

    def _field_sums(self, ask: Ask, known: AssetPrices, n: int, real: FloatArray) -> list[float]:
        slot, asset, start = ask
        prompt = PROMPTS[slot]
        book = PriceBook(as_of=float(known.spot_time), written_at=0.0, assets={asset: known})
        sums = []
        for name, baseline in self._field.items():
            seed = seed_of(slot, f"{name} {asset} {start}".encode())
            paths = baseline(asset, book, start, prompt.increment, prompt.length, n, seed)
            sums.append(stored_score(paths, real, prompt))
        return sums

    @property
    def scored(self) -> int:
        """Prompts scored."""
        return len(self._sums)

    @property
    def unscored(self) -> int:
        """Prompts without a score: no truth, no price book, or still waiting."""
        return len((self._lost | {one.ask for one in self._pending}) - self._sums.keys())

    def incentive(self) -> dict[str, float]:
        """Shares of both prompts' rewards at the time of the last score, summing to 1; empty without a score."""
        rows: dict[SlotName, list[tuple[object, ...]]] = {}
        for ask, sums in self._sums.items():
            found = prompt_scores(sums)
            if found.scores is None:
                continue
            at = ask.start + PROMPTS[ask.slot].length + PUBLISH_DELAY
            for miner, value in enumerate(found.scores.tolist()):
                rows.setdefault(ask.slot, []).append((at, miner, ask.asset, value, found.percentile90, found.lowest))
        uids = {miner: miner for miner in range(len(self._names))}
        parts = []
        for slot, own in rows.items():
            table = Rows.of(own)
            now = float(table.times.max())
            parts.append(rewards(in_window(table, now, PROMPTS[slot]), now, PROMPTS[slot], uids))
        weights = combine(parts)
        total = sum(weights.values())
        if not total:
            return {}
        return {name: weights.get(miner, 0.0) / total for miner, name in enumerate(self._names)}

    def means(self) -> dict[str, dict[str, float]]:
        """Mean CRPS sum (basis points) by slot and name, over valid answers."""
        found: dict[str, dict[str, float]] = {}
        for slot in dict.fromkeys(ask.slot for ask in self._sums):
            table = np.array([sums for ask, sums in self._sums.items() if ask.slot == slot])
            found[slot] = {
                name: float(column[column != INVALID].mean())
                for name, column in zip(self._names, table.T, strict=True)
                if (column != INVALID).any()
            }
        return found
