"""Counts kept in plain memory and handed to prometheus_client once a second.

Its own counters take a lock and write to a mapped file at every step; a request takes some thirty steps, which came
to more than checking its signature. What a killed worker had not handed over is lost with it: at most a second.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter, Histogram


class Tally:
    """A counter with labels; `add` and `flush` may be called from different threads."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._added: deque[tuple[str, ...]] = deque()

    def add(self, *labels: str) -> None:
        """One more of these labels."""
        self._added.append(labels)

    def flush(self) -> None:
        """Hand over what was added."""
        for labels, count in Counts(_taken(self._added)).items():
            self._counter.labels(*labels).inc(count)


class BatchHistogram(Histogram):
    """prometheus_client's histogram, with a way to observe many amounts at the price of a few."""

    def observe_all(self, amounts: npt.NDArray[np.float64]) -> None:
        """The same as `observe` for each of them."""
        places = np.searchsorted(self._upper_bounds, amounts)  # a bucket holds what is at most its bound
        for bucket, count in zip(self._buckets, np.bincount(places).tolist(), strict=False):
            if count:
                bucket.inc(count)
        self._sum.inc(float(amounts.sum()))


class Timings:
    """A histogram over rows of durations: one row a request, one place in it for each value of the one label."""

    def __init__(self, histogram: BatchHistogram, labels: Sequence[str]) -> None:
        self._histogram = histogram
        self._labels = labels
        self._rows: deque[Sequence[int]] = deque()

    def add(self, row: Sequence[int]) -> None:
        """Nanoseconds by place; 0 is no observation. The row is kept: it must not change any more."""
        self._rows.append(row)

    def flush(self) -> None:
        """Hand over what was added."""
        rows = _taken(self._rows)
        if not rows:
            return
        for label, column in zip(self._labels, np.array(rows, dtype=np.float64).T / 1e9, strict=True):
            passed = column[column > 0]
            if passed.size:
                self._histogram.labels(label).observe_all(passed)


def _taken(queue: deque[Any]) -> list[Any]:
    """What is in a queue at this moment; whatever comes meanwhile stays for the next time."""
    return [queue.popleft() for _ in range(len(queue))]
