"""Whether a part answers as it should: None, or the reason why not in a few words.

A process that is there is not enough: each probe asks the part for something only a working one can say.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
import psutil

from infra.settings import S3, Paths, Settings

TIMEOUT = 2.0
"""Seconds a probe waits for an answer."""
STALE_AFTER = 30.0
"""Seconds without a sign of life from the sidecar."""


def http(base: str | None, path: str) -> str | None:
    """GET answers 200."""
    import httpx

    if base is None:
        return "has no address"
    try:
        status = httpx.get(base + path, timeout=TIMEOUT, trust_env=False).status_code
    except httpx.HTTPError as error:
        return f"does not answer ({type(error).__name__})"
    return None if status == 200 else f"answers {status}"


def gateway(private: str | None) -> str | None:
    """Its workers take connections, and none of them hangs."""
    import httpx

    if private is None:
        return "has no address"
    try:
        answer = httpx.get(f"{private}/healthz", timeout=TIMEOUT, trust_env=False)
        hung = answer.json()["hung"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return f"does not answer ({type(error).__name__})"
    if hung:
        return f"worker {hung[0]} shows no beat and is replaced soon"
    return None if answer.status_code == 200 else "has no worker that takes connections"


@lru_cache(maxsize=4)
def _s3_client(endpoint: str, access_key: str, secret_key: str, region: str) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=TIMEOUT, read_timeout=TIMEOUT, retries={"total_max_attempts": 1}, proxies={},
        s3={"addressing_style": "path"},
    )  # fmt: skip
    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=access_key, aws_secret_access_key=secret_key,
        region_name=region, config=config,
    )  # fmt: skip


def s3(endpoint: str | None, keys: S3) -> str | None:
    """Both buckets are there for our keys; the port answers before they exist."""
    from botocore.exceptions import BotoCoreError, ClientError

    if endpoint is None:
        return "has no address"
    try:
        listed = _s3_client(endpoint, keys.access_key, keys.secret_key, keys.region).list_buckets()
    except (BotoCoreError, ClientError) as error:
        return f"does not answer ({type(error).__name__})"
    missing = {keys.bucket, keys.mlflow_bucket} - {bucket["Name"] for bucket in listed["Buckets"]}
    return f"has no bucket {', '.join(sorted(missing))}" if missing else None


def triton(address: str | None, server_id: str | None) -> str | None:
    """Ready over gRPC, and the very server we started (`server_id`; None when it is not ours)."""
    from infra.triton import Triton, TritonError

    if address is None:
        return "has no address"
    server = Triton(address)
    try:
        if not server.ready():
            return "is not ready"
        name = server.server_id()
    except TritonError as error:
        return f"does not answer ({error})"
    finally:
        server.close()
    if server_id is not None and name != server_id:
        return f"is another server ({name}) on our port {address}"
    return None


def lacks(address: str | None, releases: Collection[str]) -> str | None:
    """None when Triton has loaded all of `releases`, else which it has not."""
    from infra.triton import Triton, TritonError

    if address is None or not releases:
        return None
    server = Triton(address)
    try:
        missing = sorted(set(releases) - server.loaded())
    except TritonError as error:
        return f"does not answer ({error})"
    finally:
        server.close()
    return f"has not loaded {', '.join(missing)} yet" if missing else None


class Duty(msgspec.Struct):
    """How one of the sidecar's duties fares."""

    last_good: float | None = None
    """Wall time, unix s."""
    failures: int = 0
    """In a row."""
    error: str | None = None
    """Of the last attempt."""
    runs: int = 0
    """Attempts, good or bad."""


class SidecarState(msgspec.Struct):
    """``run/sidecar.json``."""

    written_at: float
    pid: int
    duties: dict[str, Duty]


def read_sidecar(paths: Paths) -> SidecarState | None:
    """What the sidecar last said, or None."""
    try:
        return msgspec.json.decode((paths.run / "sidecar.json").read_bytes(), type=SidecarState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def sidecar(settings: Settings) -> str | None:
    """It gave a sign of life of late, every file that serving reads is there, and every duty was tried once."""
    paths = settings.paths
    state = read_sidecar(paths)
    if state is None:
        return "has said nothing yet"
    if not psutil.pid_exists(state.pid):
        return "is not the one that spoke last"
    age = time.time() - state.written_at
    if age > STALE_AFTER:
        return f"has said nothing for {age:.0f} s"
    for file in (paths.routes, *settings.neuron_files.values(), paths.prices):
        if not file.exists():
            error = next((f": {name}: {duty.error}" for name, duty in state.duties.items() if duty.error), "")
            return f"has not written {file.name} yet{error}"
    untried = [name for name, duty in state.duties.items() if not duty.runs]
    return f"has not looked at {', '.join(untried)} yet" if untried else None


def flows(prefect: str | None, since: float) -> str | None:
    """One of our deployments was polled for work since its process began (`since`, unix s)."""
    import httpx

    if prefect is None:
        return "has no address"
    wanted = {"limit": 1, "sort": "UPDATED_DESC", "deployments": {"tags": {"all_": ["headframe"]}}}
    try:
        answer = httpx.post(f"{prefect}/api/deployments/filter", json=wanted, timeout=TIMEOUT, trust_env=False)
    except httpx.HTTPError as error:
        return f"Prefect does not answer ({type(error).__name__})"
    if answer.status_code != 200:
        return f"Prefect answers {answer.status_code}"
    polled = [found.get("last_polled") for found in answer.json()]
    if not polled or polled[0] is None or datetime.fromisoformat(polled[0]).timestamp() < since:
        return "no deployment is being served yet"
    return None
