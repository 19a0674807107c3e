"""What the sidecar does: every duty of a home, and those for routes, neurons, prices, the clock and releases."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from infra import ntp
from infra.chain import BittensorChain, ChainDown, ChainPort
from infra.ports import endpoints, need
from infra.settings import Paths, Settings
from infra.sidecar import Duty
from infra.stack.processes import marked
from infra.traffic.duties import traffic_duties
from infra.triton import Triton
from infra.triton.stubs import Stubs
from infra.unloading import unloading
from infra.watchdog import watchdog
from serving.clock import Clock, ClockError
from serving.errors import UserError
from serving.state import ClockSkew, NeuronTable, RouteTable, write_state
from serving.types import ReleaseId
from serving.workers.acks import folder_of, held_by, recent

if TYPE_CHECKING:
    from infra.prices import PriceStore
    from infra.recorder import Recorder

log = structlog.get_logger()
LOCAL_NEURONS = Path(__file__).parent / "local" / "neurons.json"
CLOCK_EVERY = 600.0
PRICES_EVERY = 5.0
"""Seconds of wall time; less when recorded time runs faster than the wall's."""


def all_duties(settings: Settings) -> list[Duty]:
    """The duties of this home, none of them begun."""
    recording: list[Recorder] = []
    duties = [routes(settings), neurons(settings), prices(settings, recording), releases(settings), unloading(settings)]
    if settings.ntp_servers:
        duties.append(clock_skew(settings))
    if not settings.triton_grpc:
        duties.append(watchdog(settings))
    duties += traffic_duties(settings)
    return [*duties, recorder(settings, recording)] if settings.prices.record else duties


def routes(settings: Settings) -> Duty:
    """The ledger's routes into ``routes.json``, every second."""
    made: list[Callable[[], object]] = []

    def run() -> None:
        if not made:
            from infra.ledger import open_ledger
            from infra.routes import publish_routes

            ledger = open_ledger(settings)
            made.append(lambda: publish_routes(ledger, settings.paths.routes))
        made[0]()

    return Duty("routes", run, lambda: 1.0)


def neurons(settings: Settings, chain: ChainPort | None = None) -> Duty:
    """Each subnet's neurons into a file of its own: the packaged table in ``local``, else the chain's."""

    def from_package() -> None:
        table = msgspec.json.decode(LOCAL_NEURONS.read_bytes(), type=NeuronTable)
        for netuid, file in settings.neuron_files.items():
            write_state(file, NeuronTable(netuid, time.time(), table.neurons))

    def from_chain() -> None:
        source = chain or BittensorChain(settings.profile)
        down: list[ChainDown] = []
        for netuid, file in settings.neuron_files.items():
            try:
                write_state(file, source.neurons(netuid))
            except ChainDown as error:
                down.append(error)
        if down:
            raise down[0]

    if settings.profile == "local" and chain is None:
        return Duty("neurons", from_package, lambda: 30.0)
    return Duty("neurons", from_chain, lambda: 300.0, longest_pause=600.0)


def clock_skew(settings: Settings) -> Duty:
    """How far this machine's clock is off, into ``clock-skew.json``."""

    def run() -> None:
        found = ntp.measure(settings.ntp_servers)
        write_state(settings.paths.skew, ClockSkew(time.time(), found.skew_s, found.answered, found.asked))
        if found.skew_s is None:
            raise UserError(found.text())

    return Duty("clock", run, lambda: CLOCK_EVERY, longest_pause=CLOCK_EVERY)


def prices(settings: Settings, recording: Sequence[Recorder] = ()) -> Duty:
    """Every asset's recent prices into ``prices.json``, the recorder's newest added; at once when time is set."""
    clock = Clock(settings.paths.clock if settings.profile == "local" else None)
    made: list[PriceStore] = []

    def run() -> None:
        if not made:
            from infra.prices import price_store

            made.append(price_store(settings))
        book = made[0].book(clock.subnet())
        for recorder in recording:
            book = recorder.extend(book)
        write_state(settings.paths.prices, book)

    def every() -> float:
        try:
            recorded = clock.recorded()
        except ClockError:  # `run` tells of it
            recorded = None
        return max(0.5, PRICES_EVERY / max(1.0, recorded.rate if recorded else 1.0))

    return Duty("prices", run, every, changed=lambda: _stamp(settings.paths.clock))


def _stamp(path: Path) -> tuple[int, int] | None:
    """Differs after every replacement of the file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def recorder(settings: Settings, made: list[Recorder]) -> Duty:
    """What the live source says into the price store; leaves the recorder in `made` for `prices`."""

    def run() -> None:
        if not made:
            from infra.prices import price_store
            from infra.recorder import recorder as configured

            found = configured(settings, price_store(settings))
            if found is None:
                raise UserError("prices.record is on, and no live source is configured: set prices.pyth")
            made.append(found)
        seen = made[0].look(time.time())
        if seen is not None and seen.problem:
            raise UserError(seen.problem)

    return Duty("recorder", run, lambda: settings.prices.record_every)


def releases(settings: Settings) -> Duty:
    """Every routed release loaded into Triton, so that a Triton that was killed answers again within seconds.

    The bundles lie on this box already, so neither the object store nor MLflow is needed for that. An embedded Triton's
    own processes are watched too.
    """
    home = settings.home
    stubs = None if settings.triton_grpc else Stubs(_real(settings).models, lambda: marked(home).get("triton", []))

    def run() -> None:
        wanted = routed(settings.paths.routes)
        wanted += sorted(held_by(recent(folder_of(settings.paths.run))) - set(wanted))
        if not wanted:
            return
        triton = Triton(need(endpoints(settings).triton_grpc, "Triton"))  # a new channel: an old one may be backing off
        try:
            loaded = triton.loaded()
            missing = [release for release in wanted if release not in loaded]
            with ThreadPoolExecutor(max_workers=2) as pool:
                problems = list(pool.map(lambda release: _load(settings, triton, release), missing))
            if stubs is not None:
                for release in stubs.tend(triton, [release for release in wanted if release in loaded]):
                    log.warning("release had lost a process and was loaded anew", release=release)
        finally:
            triton.close()
        if any(problems):
            raise UserError("; ".join(problem for problem in problems if problem))

    duty = Duty("releases", run, lambda: 0.2 if duty.record.failures else 1.0, longest_pause=1.0)
    if stubs is not None:
        duty.changed = stubs.lost
    return duty


def _real(settings: Settings) -> Paths:
    """The layout with every link resolved, as Triton's processes spell it."""
    return Paths(Path(os.path.realpath(settings.home)))


def routed(path: Path) -> list[ReleaseId]:
    """Every release that the routes name, the stable ones first."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RouteTable).releases()
    except FileNotFoundError:
        return []


def _load(settings: Settings, triton: Triton, release: ReleaseId) -> str | None:
    """Load one release; what kept it from that is told and holds up no other."""
    try:
        _bring(settings, release)
        began = time.monotonic()
        triton.load(release)
    except UserError as error:
        return str(error)
    log.info("release loaded", release=release, seconds=round(time.monotonic() - began, 3))
    return None


def _bring(settings: Settings, release: ReleaseId) -> None:
    """Make sure that the release lies whole below ``models``; asks the object store only if it does not."""
    from infra.ledger import LedgerError, open_ledger
    from infra.objects import object_store
    from infra.releases import fetch, verify

    try:
        ledger = open_ledger(settings)
        try:
            digest = ledger.release(release).sha256
        finally:
            ledger.close()
    except LedgerError:
        verify(settings.paths.models / release)  # the id holds 48 bits of the digest: enough until the ledger is back
        return
    fetch(object_store(settings), release, settings.paths.models, sha256=digest)
