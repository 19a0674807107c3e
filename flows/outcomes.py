"""Outcomes: what each answer was worth, once the prices it was about have come true.

Every answered request in the traffic record whose time is over is answered again from its recorded tensors, through the
release that answered it. The digest must be that of the answer sent; then the subnet's formula scores it. Rows go to
``outcomes/`` in the object store as Parquet, once for each request and release.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from flows.bring import live_triton
from flows.progress import Progress, quiet
from flows.replays import route_of
from flows.split import grid_of
from flows.steps import Steps, in_turn
from flows.trial import side_by_side
from infra.objects import ObjectStore, object_store
from infra.prices import PriceStore, price_store
from infra.settings import Settings
from infra.traffic import reading as traffic
from infra.triton import Triton, TritonError
from serving.call import answer_digest
from serving.clock import Clock
from serving.subnets.base import Task
from serving.subnets.synth.rules import PUBLISH_DELAY
from serving.subnets.synth.scoring import prompt_score
from serving.traffic.records import TensorBytes, TrafficRecord
from serving.triton import unpack
from serving.types import UnixSeconds

PREFIX = "outcomes/"
LOOK_BACK_S = 14 * 86_400.0
"""How old a request may be and still wait for its prices, wall time."""
AT_MOST = 5_000
"""Answers scored in one run; the rest is the next run's."""
COLUMNS = (
    "request_id", "at", "subnet_at", "slot", "asset", "start", "release", "role", "dialect", "caller", "score", "terms",
    "terms_full", "per_interval", "simulated", "proxy", "answer_digest",
)  # fmt: skip


class OutcomesReport(msgspec.Struct, frozen=True):
    """What one run did, and the scores of all stored outcomes of the requests it looked at."""

    scored: int
    """New rows."""
    known: int
    """Answers whose row was there already."""
    waiting: int
    """Answers whose prices are not known yet."""
    without_prices: int
    """Their time is over, and no price of theirs is stored."""
    not_loaded: int
    """Their release is not loaded any more, so it cannot answer again."""
    without_body: int
    """The record no longer holds the tensors."""
    mismatches: int
    """Answered again, and the answer was another one: these are not scored."""
    table: list[dict[str, Any]]
    """By slot, asset, release and role: answers, mean score, and whether the prices are simulated."""
    keys: list[str]
    """Objects written."""
    seconds: float


class _Answered(NamedTuple):
    """A record of an answer, the tensors it was given, and what was asked."""

    record: TrafficRecord
    tensors: dict[str, TensorBytes]
    task: Task
    asset: str
    start: int


def outcomes(
    settings: Settings, *, limit: int = AT_MOST, steps: Steps = in_turn, progress: Progress = quiet
) -> OutcomesReport:
    """Score every answer whose prices are known by now, and store the rows. Safe to repeat and to cut short."""
    began = time.perf_counter()
    now = Clock(settings.paths.clock if settings.profile == "local" else None).subnet()
    objects, store = object_store(settings), price_store(settings)
    counts: Counter[str] = Counter()
    found = steps("read the traffic record", lambda: _answered(settings, counts))
    over = [answer for answer in found if answer.start + grid_of(answer.task.slot).length + PUBLISH_DELAY <= now]
    counts["waiting"] = len(found) - len(over)
    stored = steps("read stored outcomes", lambda: read_outcomes(objects, _days(over)), retries=2)
    done = set(zip(stored["request_id"], stored["release"], strict=True))
    fresh = [a for a in over if (a.record.request_id, a.record.release) not in done]
    counts["known"] = len(over) - len(fresh)
    rows = steps("score", lambda: _score(settings, store, fresh[:limit], counts, progress))
    keys = steps("store", lambda: _write(objects, rows), retries=2)
    every = pd.concat([stored, pd.DataFrame(rows, columns=list(COLUMNS))]) if rows else stored
    return OutcomesReport(
        scored=len(rows), known=counts["known"], waiting=counts["waiting"], without_prices=counts["without_prices"],
        not_loaded=counts["not_loaded"], without_body=counts["without_body"], mismatches=counts["mismatches"],
        table=summary(every), keys=keys, seconds=time.perf_counter() - began,
    )  # fmt: skip


def read_outcomes(objects: ObjectStore, days: Iterable[str]) -> pd.DataFrame:
    """Stored rows of requests that arrived on the given days (YYYY-MM-DD, UTC), each request and release once."""
    frames = [
        pd.read_parquet(io.BytesIO(objects.get(key))) for day in days for key in objects.list(f"{PREFIX}day={day}/")
    ]
    if not frames:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(frames).drop_duplicates(["request_id", "release"]).reset_index(drop=True)


def summary(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean score by slot, asset, release and role."""
    if rows.empty:
        return []
    keys = ["slot", "asset", "release", "role"]
    made = rows.groupby(keys, as_index=False).agg(
        answers=("request_id", "count"), score=("score", "mean"), terms=("terms", "median"),
        simulated=("simulated", "max"), proxy=("proxy", "max"),
    )  # fmt: skip
    return [
        {
            **{str(name): value for name, value in row.items()},
            "score": round(float(row["score"]), 4),
            "answers": int(row["answers"]),
            "terms": int(row["terms"]),
            "simulated": bool(row["simulated"]),
            "proxy": bool(row["proxy"]),
        }
        for row in made.to_dict("records")
    ]


def _answered(settings: Settings, counts: Counter[str]) -> list[_Answered]:
    """Answers in the record, oldest first; a shadow's takes its tensors from the request it copied."""
    records = list(traffic.records(settings, since=time.time() - LOOK_BACK_S))
    bodies = {r.request_id: r for r in records if r.tensors}
    answers: list[_Answered] = []
    for record in records:
        if record.code != "ok" or record.release is None or record.answer_digest is None:
            continue
        body = bodies.get(record.request_id)
        if body is None:
            counts["without_body"] += 1
            continue
        task = _task(body)
        request = task.request
        answers.append(_Answered(record, body.tensors, task, request.asset, request.start))
    return answers


def _task(body: TrafficRecord) -> Task:
    """The task that was asked, from its canonical spelling."""
    return route_of(body.slot).restore(body.request, UnixSeconds(body.subnet_at))


def _score(
    settings: Settings, store: PriceStore, answers: Sequence[_Answered], counts: Counter[str], progress: Progress
) -> list[dict[str, Any]]:
    if not answers:
        return []
    truths: dict[tuple[str, str, int], npt.NDArray[np.float64]] = {}
    for answer in answers:  # the price store is read by one thread
        grid = grid_of(answer.task.slot)
        key = (str(answer.task.slot), answer.asset, answer.start)
        if key not in truths:
            truths[key] = store.truth(answer.asset, answer.start, grid.increment, grid.length)
    with closing(live_triton(settings)) as triton:
        ready = triton.loaded()

        def one(answer: _Answered) -> dict[str, Any] | str:
            truth = truths[str(answer.task.slot), answer.asset, answer.start]
            return _row(triton, ready, answer, truth)

        made = side_by_side(one, answers, "outcomes", progress)
    rows = [row for row in made if isinstance(row, dict)]
    counts.update(row for row in made if isinstance(row, str))
    return rows


def _row(triton: Triton, ready: set[str], answer: _Answered, truth: npt.NDArray[np.float64]) -> dict[str, Any] | str:
    """The row of one answer, or the count it belongs to."""
    record, release = answer.record, str(answer.record.release)
    if not np.isfinite(truth).any():
        return "without_prices"
    if release not in ready:
        return "not_loaded"
    tensors = {name: unpack(t.dtype, tuple(t.shape), t.data) for name, t in answer.tensors.items()}
    try:
        outputs = triton.infer(release, tensors, priority=3)
    except TritonError:
        if not triton.ready():
            raise
        return "mismatches"
    outputs.pop("RELEASE", None)
    if answer_digest(outputs) != record.answer_digest:
        return "mismatches"
    prompt = grid_of(answer.task.slot).prompt
    paths = np.asarray(route_of(answer.task.slot).answer(answer.task, outputs))
    score = prompt_score(paths, truth, prompt)
    if score.n_terms == 0:
        return "without_prices"
    return {
        "request_id": record.request_id, "at": record.at, "subnet_at": record.subnet_at, "slot": str(answer.task.slot),
        "asset": answer.asset, "start": answer.start, "release": release, "role": record.role,
        "dialect": record.dialect, "caller": record.caller, "score": score.stored, "terms": score.n_terms,
        "terms_full": prompt.terms, "per_interval": msgspec.json.encode(score.per_interval).decode(),
        "simulated": bool(record.inputs.get("simulated", False)), "proxy": bool(record.inputs.get("proxy", False)),
        "answer_digest": record.answer_digest,
    }  # fmt: skip


def _write(objects: ObjectStore, rows: Sequence[dict[str, Any]]) -> list[str]:
    """One object a day, named by what it holds, so that the same rows are never written twice."""
    keys = []
    by_day: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_day.setdefault(_day(row["at"]), []).append(row)
    for day, members in sorted(by_day.items()):
        members.sort(key=lambda row: (row["request_id"], row["release"]))
        names = "\n".join(f"{row['request_id']} {row['release']}" for row in members)
        key = f"{PREFIX}day={day}/{hashlib.sha256(names.encode()).hexdigest()[:32]}.parquet"
        buffer = io.BytesIO()
        pd.DataFrame(members, columns=list(COLUMNS)).to_parquet(buffer, index=False)
        objects.put(key, buffer.getvalue(), only_if_absent=True)
        keys.append(key)
    return keys


def _days(answers: Iterable[_Answered]) -> list[str]:
    return sorted({_day(answer.record.at) for answer in answers})


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%d")
