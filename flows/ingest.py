"""Ingest: ask every configured source for its bars and keep them, cleaned, in the object store.

What is stored already is not written again, so a run that was cut off is finished by running it once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from flows.steps import Steps, in_turn
from infra.objects import ObjectStoreError
from infra.price_sources import LiveSource, Source
from infra.price_sources.configured import sources
from infra.price_sources.http import Unreachable
from infra.prices import PriceStore, Series, price_store
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


def ingest(
    settings: Settings, *, steps: Steps = in_turn, told: Callable[[str], None] = lambda line: None
) -> IngestReport:
    """Ask every source and store what is new; `told` gets one line a series.

    A source in trouble is a line in the report and does not stop the others. Raises ObjectStoreError when the object
    store does not answer, UserError when no source is configured.
    """
    began = time.monotonic()
    configured = sources(settings)
    if not configured:
        raise UserError("no price source is configured: set [prices] packaged, folder or pyth")
    store = price_store(settings)
    held = {(one.asset, one.source, one.step): one for one in store.series()}
    reports = []
    for source in configured:

        def work(source: Source = source) -> SourceReport:
            return ingest_source(store, source, held, told)

        reports.append(steps(f"ingest {source.name}", work, retries=2))
    return IngestReport(store.series(), reports, time.monotonic() - began)


def ingest_source(
    store: PriceStore,
    source: Source,
    held: dict[tuple[str, str, int], Series],
    told: Callable[[str], None] = lambda line: None,
) -> SourceReport:
    """Store what one source offers, simulated prices only where there are no real ones.

    Only a live source is asked for no more than what is new.
    """
    new = changed = objects = count = 0
    notes: list[str] = []
    failed = False
    try:
        real = {one.asset for one in store.series() if not one.simulated} if source.simulated else set()
        for asset, step in source.offers():
            if asset in real:
                continue
            before = held.get((asset, source.name, step)) if isinstance(source, LiveSource) else None
            since = before.last - _OVERLAP * step if before else None
            try:
                bars = source.history(asset, step, since)
                if bars.empty:
                    continue
                wrote = store.write(
                    bars, source=source.name, asset=asset, step=step,
                    simulated=source.simulated, proxy=source.proxy, hours=source.hours,
                )  # fmt: skip
            except (ObjectStoreError, Unreachable):
                raise
            except UserError as error:
                failed = True
                notes.append(str(error))
                continue
            count, new, changed = count + 1, new + wrote.rows_new, changed + wrote.rows_changed
            objects += wrote.objects
            name = f"{asset}/{source.name}/{step}"
            found = {**wrote.dropped, **wrote.odd}
            notes += [f"{name}: {rows} rows {reason}" for reason, rows in found.items()]
            told(f"{name}: {wrote.series.rows} bars, {wrote.rows_new} new")
    except ObjectStoreError:
        raise
    except UserError as error:
        failed = True
        notes.append(str(error))
    left_out = list(source.notes())
    return SourceReport(source.name, count, new, changed, objects, notes + left_out, failed or bool(left_out))
