"""Candidate and champion side by side in a Triton of their own, asked as serving asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from flows.progress import Progress
from flows.replays import Asked
from infra.triton import Triton, TritonError
from serving.subnets.synth.digits import FloatArray

WORKERS = 4
"""Requests under way at once: each release has two instances in Triton, and scoring runs beside them."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Answer:
    """What a release said to one request."""

    paths: FloatArray
    """(paths, points) as they would leave, rounded by the subnet's rule."""
    fault: str | None
    """Why the validator would void it, or why there is none; None when it is valid."""


@dataclass(frozen=True)
class Trial:
    """A throw-away Triton with releases loaded."""

    triton: Triton
    deadline_s: float

    def answer(self, release_id: str, asked: Asked) -> Answer:
        """Ask a release; a failure of the model is a fault of the answer."""
        try:
            outputs = self.triton.infer(release_id, asked.inputs.tensors, timeout_s=self.deadline_s)
            answer = asked.route.answer(asked.task, outputs)
        except TritonError as error:
            if not self.triton.ready():
                raise
            return Answer(np.empty((0, 0)), str(error))
        return Answer(np.asarray(answer, dtype=np.float64), asked.route.check(asked.task, answer))


def side_by_side(work: Callable[[A], B], items: Sequence[A], what: str, progress: Progress) -> list[B]:
    """`work` on every item, a few at once, results in the items' order; the first error goes through."""
    results: list[B] = []
    with ThreadPoolExecutor(WORKERS) as pool:
        found: Iterable[B] = pool.map(work, items)
        for result in found:
            results.append(result)
            progress(what, len(results), len(items))
    return results
