"""Choose how a flow runs: under Prefect when its server answers, as a plain function otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from flows.progress import Progress, quiet
from infra.ports import endpoints
from infra.settings import Settings
from infra.stack.commands import prefect_client_env

T = TypeVar("T")
_PATIENCE_S = 20.0
"""How long a server that takes the connection may take to answer: a busy one is not an absent one."""


def api_url(settings: Settings) -> str | None:
    """The API of a Prefect server that answers now; None when there is none."""
    import httpx

    base = endpoints(settings).prefect
    if base is None:
        return None
    limits = httpx.Timeout(_PATIENCE_S, connect=2.0)
    try:
        healthy = httpx.get(f"{base}/api/health", timeout=limits, trust_env=False).status_code == 200
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    return f"{base}/api" if healthy else None


def prepare(settings: Settings, url: str, console_level: str = "WARNING") -> None:
    """Set what Prefect reads from the environment; it reads it when it is imported."""
    settings.paths.prefect.mkdir(parents=True, exist_ok=True)
    os.environ.update(prefect_client_env(settings.paths.prefect, url))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", console_level)


def run(
    settings: Settings,
    name: str,
    plain: Callable[[], T],
    parameters: dict[str, Any],
    *,
    use_prefect: bool = True,
    progress: Progress = quiet,
) -> T:
    """Run the flow `name` of `flows.orchestrated` with its parameters, or `plain` when Prefect is not there.

    Both raise what the flow raises.
    """
    url = api_url(settings) if use_prefect else None
    if url is None:
        return plain()
    prepare(settings, url, "CRITICAL")  # whoever calls says what went wrong, in one line
    from flows import orchestrated

    settings_token = orchestrated.given.set(settings)
    progress_token = orchestrated.drawn.set(progress)
    try:
        result: T = getattr(orchestrated, name)(**parameters)
        return result
    finally:
        orchestrated.given.reset(settings_token)
        orchestrated.drawn.reset(progress_token)
        _deliver_logs()


def _deliver_logs() -> None:
    """Give Prefect's server the flow's logs now: it may be stopped before this process ends."""
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
