"""Ingest: ask every configured source for its bars and keep them, cleaned, in the object store.

What is stored already is not written again, so a run that was cut off is finished by running it once more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import msgspec

from flows.progress import Progress, quiet
from flows.steps import Steps, in_turn
from infra.objects import ObjectStoreError
from infra.price_sources import LiveSource, Source
from infra.price_sources.configured import sources
from infra.price_sources.http import Unreachable
from infra.prices import PriceStore, Series, WriteReport, price_store
from infra.settings import Settings
from serving.errors import UserError

_OVERLAP = 10  # bars asked for again: a live source may mend its newest ones


class SourceReport(msgspec.Struct, frozen=True):
    """What one source gave."""

    source: str
    series: int
    rows_new: int
    rows_changed: int
    objects: int
    """Objects made in the store."""
    notes: list[str]
    """Rows dropped, rows that look wrong, files and assets left out, and why: one line each."""
    failed: bool
    """Some of what it offers could not be had."""


class IngestReport(msgspec.Struct, frozen=True):
    """Every stored series after the run, and what each source gave in it."""

    series: list[Series]
    sources: list[SourceReport]
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether any source failed in part; what could be had is stored all the same."""
        return any(one.failed for one in self.sources)


def ingest(settings: Settings, *, steps: Steps = in_turn, progress: Progress = quiet) -> IngestReport:
    """Ask every source and store what is new.

    A source in trouble is a line in the report and does not stop the others. Raises ObjectStoreError when the object
    store does not answer, UserError when no source is configured.
    """
    began = time.monotonic()
    configured = sources(settings)
    if not configured:
        raise UserError("no price source is configured: set [prices] packaged, folder or pyth")
    with ExitStack() as held_open:
        for source in configured:
            held_open.callback(source.close)
        store = price_store(settings)
        held = {(one.asset, one.source, one.step): one for one in store.series()}
        reports = []
        for source in configured:
            work = partial(ingest_source, store, source, held, progress)
            reports.append(steps(f"ingest {source.name}", work, retries=2))
        return IngestReport(store.series(), reports, time.monotonic() - began)


def ingest_source(
    store: PriceStore, source: Source, held: Mapping[tuple[str, str, int], Series], progress: Progress = quiet
) -> SourceReport:
    """Store what one source offers, simulated prices only where there are no real ones.

    Only a live source is asked for no more than what is new. What cannot be had is a note, and the rest goes on;
    raises ObjectStoreError.
    """
    wrote: list[WriteReport] = []
    trouble: list[str] = []
    try:
        offers = _offers(store, source)
        for done, (asset, step) in enumerate(offers):
            progress(f"{source.name}: {asset} by {step} s", done, len(offers))
            try:
                before = held.get((asset, source.name, step))
                wrote += _one(store, source, asset, step, before)
            except (ObjectStoreError, Unreachable):
                raise
            except UserError as error:
                trouble.append(str(error))
        progress(source.name, len(offers), len(offers))
    except ObjectStoreError:
        raise
    except UserError as error:
        trouble.append(str(error))
    trouble += source.notes()
    return SourceReport(
        source.name, len(wrote), sum(one.rows_new for one in wrote), sum(one.rows_changed for one in wrote),
        sum(one.objects for one in wrote), [*_findings(wrote), *trouble], bool(trouble),
    )  # fmt: skip


def _offers(store: PriceStore, source: Source) -> list[tuple[str, int]]:
    real = {one.asset for one in store.series() if not one.simulated} if source.simulated else set()
    return [(asset, step) for asset, step in source.offers() if asset not in real]


def _one(store: PriceStore, source: Source, asset: str, step: int, before: Series | None) -> list[WriteReport]:
    """Store one series; nothing when the source has no bar of it."""
    since = before.last - _OVERLAP * step if before and isinstance(source, LiveSource) else None
    bars = source.history(asset, step, since)
    if bars.empty:
        return []
    labels = {"simulated": source.simulated, "proxy": source.proxy}
    return [store.write(bars, source=source.name, asset=asset, step=step, hours=source.hours, **labels)]


def _findings(wrote: Sequence[WriteReport]) -> list[str]:
    return [
        f"{one.series.asset}/{one.series.source}/{one.series.step}: {rows} rows {reason}"
        for one in wrote
        for reason, rows in {**one.dropped, **one.odd}.items()
    ]
