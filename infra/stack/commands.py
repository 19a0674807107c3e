"""How each outside program starts: its arguments and environment, and nothing that runs.

The stack, the throw-away servers of the gate and the tests all start them from here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from infra.settings import S3
from serving.errors import UserError

QUIET = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""No part phones home. MLflow knows the word true only."""


@dataclass(frozen=True)
class Command:
    """A program to start: argv, what its environment adds, and where it stands."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


def tool(name: str) -> str:
    """A program of the project's own environment."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise UserError(f"{name} is missing from {beside.parent}: run 'make env'")
    return found


def seaweedfs(folder: Path, ports: Mapping[str, int], s3: S3, bind: str = "127.0.0.1") -> Command:
    """S3 with keys. The port answers before the buckets exist: poll list_buckets."""
    argv = (
        tool("weed"), "-logtostderr", "mini", f"-dir={folder}", f"-ip={bind}", f"-ip.bind={bind}",
        f"-s3.port={ports['s3']}", f"-master.port={ports['s3_master']}", f"-volume.port={ports['s3_volume']}",
        f"-filer.port={ports['s3_filer']}", f"-admin.port={ports['s3_admin']}",
        f"-metricsPort={ports['s3_metrics']}", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0",
        "-s3.port.lance=0", "-master.telemetry=false", f"-bucket={s3.bucket},{s3.mlflow_bucket}",
    )  # fmt: skip
    return Command(argv, {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key})


def mlflow_client_env(s3: S3, s3_endpoint: str) -> dict[str, str]:
    """What any process that logs to MLflow, or serves it, needs to reach its artifacts."""
    return QUIET | {
        "MLFLOW_S3_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": s3.region,
    }


def mlflow_server(folder: Path, port: int, s3: S3, s3_endpoint: str, bind: str = "127.0.0.1") -> Command:
    """MLflow on SQLite with its artifacts in the object store. `folder` must exist."""
    argv = (
        tool("mlflow"), "server", "--host", bind, "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", f"s3://{s3.mlflow_bucket}",
    )  # fmt: skip
    env = mlflow_client_env(s3, s3_endpoint) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Command(argv, env, cwd=folder)


def prefect_client_env(folder: Path, api_url: str) -> dict[str, str]:
    """What any process that runs flows needs: the API's address, its own home, and no chatter."""
    return QUIET | {
        "PREFECT_HOME": str(folder),
        "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    }


def prefect_server(folder: Path, port: int, bind: str = "127.0.0.1") -> Command:
    """Prefect's server on SQLite. `folder` must exist."""
    env = prefect_client_env(folder, f"http://{bind}:{port}/api") | {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_METRICS_ENABLED": "true",
    }
    return Command((tool("prefect"), "server", "start", "--host", bind, "--port", str(port)), env, cwd=folder)


@lru_cache(maxsize=4)
def _triton_python(venv: Path) -> tuple[str, str, str]:
    """(site-packages, X.Y, folder of libpython) of Triton's own interpreter."""
    python = venv / "bin" / "python"
    if not python.exists():
        raise UserError(f"Triton's environment {venv} is missing: run 'make env'")
    code = (
        "import sysconfig, sys; print(sysconfig.get_paths()['purelib']); "
        "print('%d.%d' % sys.version_info[:2]); print(sysconfig.get_config_var('LIBDIR'))"
    )
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"Triton's environment {venv} is broken: delete it and run 'make env'")
    site, version, libdir = done.stdout.split()
    return site, version, libdir


def tritonserver(
    venv: Path,
    folder: Path,
    models: Path,
    *,
    server_id: str,
    grpc: int,
    http: int,
    metrics: int,
    bind: str = "127.0.0.1",
) -> Command:
    """The real tritonserver on CPU, explicit control, loopback only.

    Lays the Python backend and the stub of the interpreter's own version side by side below `folder`.
    """
    site, version, libdir = _triton_python(venv)
    home = Path(site) / "pytriton" / "tritonserver"
    binary, stub = home / "bin" / "tritonserver", home / "python_backend_stubs" / version / "triton_python_backend_stub"
    for needed in (binary, stub):
        if not needed.exists():
            raise UserError(f"{needed.name} is missing from {venv}: delete that folder and run 'make env'")
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True, exist_ok=True)
    models.mkdir(parents=True, exist_ok=True)
    for source in (*sorted((home / "backends" / "python").iterdir()), stub):
        target = backend / source.name
        if source.is_file() and not target.exists():
            shutil.copy2(source, target)
    argv = (
        str(binary), "--id", server_id, "--model-repository", str(models), "--backend-directory", str(backend.parent),
        "--model-control-mode", "explicit", "--strict-readiness", "true", "--exit-timeout-secs", "30",
        "--http-address", bind, "--http-port", str(http), "--grpc-address", bind, "--grpc-port", str(grpc),
        "--metrics-address", bind, "--metrics-port", str(metrics), "--allow-gpu-metrics", "false",
    )  # fmt: skip
    env = {
        "LD_LIBRARY_PATH": os.pathsep.join((str(Path(site) / "nvidia_pytriton.libs"), libdir)),
        "PATH": f"{venv / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": site,
        "VIRTUAL_ENV": str(venv),
    }
    return Command(argv, env)
