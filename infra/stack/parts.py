"""The parts of the stack: what starts each, what it waits for, and how it is known to be ready."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from infra.ports import Endpoints, endpoints
from infra.settings import Paths, Settings
from infra.stack import commands, probes
from infra.stack.commands import Command
from infra.stack.processes import marked


@dataclass(frozen=True)
class Plan:
    """One home's stack: its settings and the ports chosen for it."""

    settings: Settings
    ports: Mapping[str, int]

    @property
    def home(self) -> Path:
        """The home with every link resolved, as the processes' markers spell it."""
        return Path(os.path.realpath(self.settings.home))

    @property
    def paths(self) -> Paths:
        """The layout of that home."""
        return Paths(self.home)

    @cached_property
    def endpoints(self) -> Endpoints:
        """Where each part answers."""
        return endpoints(self.settings)

    @property
    def server_id(self) -> str:
        """Triton's ``--id``: tells our server from one that took its port."""
        return "headframe-" + hashlib.sha256(str(self.home).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Part:
    """One program of the stack.

    `probe` returns None when the part answers as it should, else the reason in a few words; it never raises
    and never takes longer than a dozen seconds.
    """

    name: str
    command: Callable[[Plan], Command]
    probe: Callable[[Plan], str | None]
    needs: tuple[str, ...] = ()
    """Parts that must be ready before this one starts."""
    start_limit: float = 180.0
    """Seconds from start to ready, on a busy box."""
    start_secs: int = 2
    """A part that dies sooner is started again after a growing pause instead of at once."""
    stop_limit: int = 10
    """Seconds from SIGTERM to SIGKILL."""
    stop_rank: int = 1
    """Parts stop in this order: the gateway first, the object store last."""
    restarts_file: str = ""
    """File below ``run`` in which the part counts how often it started a process of its own again."""
    stop_group: bool = True
    """Whether SIGTERM goes to the part's whole process group, or to its first process only, which tells the rest."""
    held: Callable[[Plan], str | None] = lambda _plan: None
    """``host:port`` that the supervisor listens on for the part, so that the port outlives it; the part finds the
    socket as its descriptor 0, and looks after its own left-over processes."""


_OWN_ZONES = {"PYTHONTZPATH": ""}
"""Prefect lists all time zones for every schedule it reads: 20 times cheaper from tzdata than from the system."""


def _s3(plan: Plan) -> Command:
    command = commands.seaweedfs(plan.paths.s3, plan.ports, plan.settings.s3, plan.settings.bind)
    return Command(command.argv, command.env, cwd=plan.paths.s3)


def _mlflow(plan: Plan) -> Command:
    endpoint = plan.endpoints.s3 or ""
    return commands.mlflow_server(
        plan.paths.mlflow, plan.ports["mlflow"], plan.settings.s3, endpoint, plan.settings.bind
    )


def _prefect(plan: Plan) -> Command:
    command = commands.prefect_server(plan.paths.prefect, plan.ports["prefect"], plan.settings.bind)
    return Command(command.argv, {**command.env, **_OWN_ZONES}, command.cwd)


def _triton(plan: Plan) -> Command:
    ports = plan.ports
    return commands.tritonserver(
        plan.settings.venv_triton, plan.paths.triton, plan.paths.models, server_id=plan.server_id,
        grpc=ports["triton_grpc"], http=ports["triton_http"], metrics=ports["triton_metrics"],
        bind=plan.settings.bind,
    )  # fmt: skip


def _sidecar(plan: Plan) -> Command:
    return Command((sys.executable, "-m", "infra.sidecar"), commands.QUIET)


def _gateway(plan: Plan) -> Command:
    takes_over = ("--listen-fd", "0") if _gateway_port(plan) else ()
    return Command((commands.tool("headframe"), "serve", *takes_over), commands.QUIET)


def _gateway_port(plan: Plan) -> str | None:
    """Supervisor can hold an IPv4 socket only; on another address the gateway listens for itself."""
    bind = plan.settings.bind
    return None if ":" in bind else f"{bind}:{plan.ports['gateway']}"


def _flows(plan: Plan) -> Command:
    env = commands.mlflow_client_env(plan.settings.s3, plan.endpoints.s3 or "")
    env |= commands.prefect_client_env(plan.paths.prefect, f"{plan.endpoints.prefect}/api")
    return Command((sys.executable, "-m", "flows.deployments"), env | _OWN_ZONES)


def _flows_probe(plan: Plan) -> str | None:
    begun = [process.create_time() for process in marked(plan.home).get("flows", ())]
    return probes.flows(plan.endpoints.prefect, min(begun)) if begun else "has no process"


PARTS = (
    Part("s3", _s3, lambda p: probes.s3(p.endpoints.s3, p.settings.s3), stop_rank=3),
    Part("triton", _triton, lambda p: probes.triton(p.endpoints.triton_grpc, p.server_id),
         stop_limit=35, stop_rank=2),
    Part("mlflow", _mlflow, lambda p: probes.http(p.endpoints.mlflow, "/health"),
         start_secs=5, stop_rank=2),
    Part("prefect", _prefect, lambda p: probes.http(p.endpoints.prefect, "/api/health"),
         start_secs=5, stop_rank=2),
    Part("sidecar", _sidecar, lambda p: probes.sidecar(p.settings), needs=("s3",)),
    Part("gateway", _gateway,
         lambda p: probes.gateway(p.endpoints.private), needs=("triton", "sidecar"),
         stop_limit=40, stop_rank=0, stop_group=False, restarts_file="worker_restarts", held=_gateway_port),
    Part("flows", _flows, _flows_probe, needs=("prefect",),
         start_secs=5, stop_limit=15),
)  # fmt: skip
"""Every part, in the order a person reads them."""


def embedded(settings: Settings) -> tuple[Part, ...]:
    """The parts this stack starts itself: all but those that the settings place elsewhere."""
    outside = {
        "s3": settings.s3.endpoint,
        "mlflow": settings.mlflow_url,
        "prefect": settings.prefect_url,
        "triton": settings.triton_grpc,
    }
    return tuple(part for part in PARTS if not outside.get(part.name))
