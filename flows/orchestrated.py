"""Every flow as a Prefect flow: steps become tasks, results become artifacts, failures go through.

Importing this module imports Prefect; whoever does sets Prefect's environment first (`prepare`). The plain functions
stay usable without either.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from prefect import flow, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from flows import artifacts
from flows.coverage import coverage
from flows.gate import GateResult
from flows.gate import gate as run_gate
from flows.ingest import IngestReport
from flows.ingest import ingest as run_ingest
from flows.outcomes import OutcomesReport
from flows.outcomes import outcomes as run_outcomes
from flows.progress import Progress, quiet
from flows.retrain import RetrainResult
from flows.retrain import retrain as run_retrain
from flows.rollout import Tick, start_if_passed
from flows.rollout import tick as run_tick
from infra.ledger import LedgerError
from infra.settings import Settings, load_settings
from triton_models.synth_paths.train import Model

T = TypeVar("T")

given: ContextVar[Settings | None] = ContextVar("headframe_settings", default=None)
"""Settings of the caller in this process; a deployment's run reads them anew."""
RETRY_DELAY_S = 2.0
drawn: ContextVar[Progress] = ContextVar("headframe_progress", default=quiet)


def steps(name: str, work: Callable[[], T], *, retries: int = 0) -> T:
    """Run a step as a Prefect task. Nothing is cached: every step looks for itself at what is done already."""
    made: Callable[[], T] = task(
        name=name, retries=retries, retry_delay_seconds=RETRY_DELAY_S, cache_policy=NO_CACHE, persist_result=False
    )(work)
    return made()


def _settings() -> Settings:
    return given.get() or load_settings()


def _show(key: str, markdown: str, png: bytes = b"") -> None:
    create_markdown_artifact(markdown, key=key)
    if png:
        create_image_artifact(artifacts.data_uri(png), key=f"{key}-plot")


def _say(text: str) -> None:
    get_run_logger().info(text)


@flow(name="ingest", flow_run_name="ingest", persist_result=False)
def ingest() -> IngestReport:
    """Ask every price source, and store what is new."""
    report = run_ingest(_settings(), steps=steps, progress=drawn.get())
    _show("ingest", artifacts.of_ingest(report), coverage(report.series))
    _say(f"{len(report.series)} series, {sum(s.rows_new for s in report.sources)} new rows")
    return report


@flow(name="outcomes", flow_run_name="outcomes", persist_result=False)
def outcomes() -> OutcomesReport:
    """Score every answer whose prices are known by now."""
    report = run_outcomes(_settings(), steps=steps, progress=drawn.get())
    _show("outcomes", artifacts.of_outcomes(report))
    _say(f"{report.scored} answers scored, {report.waiting} waiting for prices, {report.mismatches} mismatches")
    return report


@flow(name="retrain", flow_run_name="retrain {slot} {model}", persist_result=False)
def retrain(slot: str, model: Model = "garch-t", sigma_scale: float = 1.0, actor: str = "retrain") -> RetrainResult:
    """Train, publish, track and record a release of the slot."""
    result = run_retrain(_settings(), slot, model, sigma_scale, actor=actor, steps=steps, progress=drawn.get())
    _show(f"retrain-{slot}", artifacts.of_retrain(result), next(iter(result.plots.values()), b""))
    _say(f"{result.release} {'was known' if result.existing else 'is new'}; MLflow run {result.run_id}")
    return result


@flow(name="gate", flow_run_name="gate {slot}", persist_result=False)
def gate(
    slot: str,
    release: str | None = None,
    *,
    limit: int | None = None,
    actor: str = "gate",
    promote: bool = False,
    waiting_only: bool = False,
) -> GateResult | None:
    """Put a release through the gate; with `promote`, start the rollout of one that passes.

    With `waiting_only`, no release waiting is no failure, and the result is None.
    """
    settings = _settings()
    try:
        result = run_gate(settings, slot, release, limit=limit, actor=actor, steps=steps, progress=drawn.get())
    except LedgerError as error:
        if not waiting_only or error.exit_code != 3:
            raise
        _say(str(error))
        return None
    _show(f"gate-{slot}", artifacts.of_gate(result), result.plot)
    _say(f"{result.release}: {result.verdict}. {result.summary}")
    if promote:
        started = steps("start the rollout", lambda: start_if_passed(settings, slot, result.release, actor=actor))
        _say(started)
    return result


@flow(name="rollout", flow_run_name="rollout {slot}", persist_result=False)
def rollout(slot: str, actor: str = "schedule") -> Tick:
    """Tick the slot's rollout once."""
    result = steps("tick", lambda: run_tick(_settings(), slot, actor=actor))
    _show(f"rollout-{slot}", artifacts.of_tick(result))
    _say(f"{result.before} to {result.after}: {result.reason}" if result.moved else f"{result.after}: {result.reason}")
    return result


ALL = (ingest, outcomes, retrain, gate, rollout)
