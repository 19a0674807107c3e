"""The truth about a stack: what answers, not what should."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import msgspec

from infra.ports import read_ports
from infra.settings import Settings
from infra.stack.parts import Part, Plan, embedded
from infra.stack.probes import lacks
from infra.stack.processes import marked, suspended
from infra.stack.supervisor import Info, Supervisor, SupervisorGone
from infra.traffic.summary import summary
from serving.clock import Clock
from serving.state import RouteTable, read_pause

Slots = dict[str, dict[str, str | None]]
State = Literal["running", "starting", "unready", "stopped", "failed"]


def judge(info: Info | None, has_processes: bool, answer: str | None, start_limit: float) -> State:
    """A part's state from what the supervisor says, whether it has processes, and its probe (None: it answers).

    Only a part that has a process and answers is ``running``. One that does not answer is ``starting`` within its
    time to start, and ``unready`` after that; ``failed`` means that it keeps dying.
    """
    supervised = info.statename if info else "UNKNOWN"
    if supervised in {"BACKOFF", "FATAL"}:
        return "failed"
    if not has_processes:
        return "starting" if supervised in {"STARTING", "EXITED"} else "stopped"
    if answer is None and supervised != "STOPPING":
        return "running"
    if info and supervised in {"STARTING", "RUNNING", "EXITED"} and info.now - info.start <= start_limit:
        return "starting"
    return "unready"


class Component(msgspec.Struct):
    """One part as it is."""

    state: State
    pids: list[int]
    """The first is the one that the supervisor started."""
    restarts: int | None
    reason: str | None
    """Why it is not running."""


def components(plan: Plan, parts: tuple[Part, ...]) -> tuple[dict[str, Component], int | None]:
    """Every part as it is, and the supervisor's pid."""
    supervisor = Supervisor(plan.home)
    try:
        infos, restarts, pid = supervisor.infos(), supervisor.restarts(), supervisor.pid()
    except SupervisorGone:
        infos, restarts, pid = {}, {}, None
    processes = marked(plan.home)

    def one(part: Part) -> Component:
        first = infos[part.name].pid if part.name in infos else 0
        own = processes.get(part.name, [])
        pids = sorted((process.pid for process in own), key=lambda pid: (pid != first, pid))
        hangs = suspended(own)
        answer = (hangs or part.probe(plan)) if pids else "has no process"
        state = judge(infos.get(part.name), bool(pids), answer, 0.0 if hangs else part.start_limit)
        count = restarts.get(part.name, 0) + _own_restarts(plan, part) if pid is not None else None
        if state == "unready" and pid is not None:
            answer = f"{answer}; 'headframe up' starts it again"
        return Component(state, pids, count, answer)

    with ThreadPoolExecutor(max_workers=max(1, len(parts)), thread_name_prefix="probe") as pool:
        return dict(zip((part.name for part in parts), pool.map(one, parts), strict=True)), pid


def _own_restarts(plan: Plan, part: Part) -> int:
    try:
        return int((plan.paths.run / part.restarts_file).read_text()) if part.restarts_file else 0
    except (OSError, ValueError):
        return 0


def _slots(settings: Settings) -> Slots:
    try:
        table = msgspec.json.decode(settings.paths.routes.read_bytes(), type=RouteTable)
    except (FileNotFoundError, msgspec.DecodeError):
        table = RouteTable(0, 0.0, {})
    slots: Slots = {}
    for name in sorted({*settings.all_slots, *table.slots}):
        route = next((route for slot, route in table.slots.items() if slot == name), None)
        slots[name] = {
            "stable": route.stable if route else None,
            "canary": route.canary.release if route and route.canary else None,
            "shadow": route.shadow if route else None,
        }
    return slots


def _clock(settings: Settings) -> dict[str, Any]:
    clock = Clock(settings.paths.clock if settings.profile == "local" else None)
    recorded = clock.recorded()
    return {
        "subnet": float(clock.subnet()),
        "wall": time.time(),
        "recorded": recorded is not None,
        "rate": recorded.rate if recorded else 1.0,
    }


def _look_for_releases(triton: Component | None, address: str | None, slots: Slots) -> None:
    """A Triton that is back from the dead runs only once it holds the stable releases again."""
    if triton is None or triton.state != "running":
        return
    triton.reason = lacks(address, {slot["stable"] for slot in slots.values() if slot["stable"]})
    if triton.reason is not None:
        triton.state = "unready"


def status(settings: Settings, *, miners: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The whole status document, complete when the stack is down too: then its addresses are null.

    `miners` has hotkey, netuid and slots of each, which the caller knows.
    """
    plan = Plan(settings, read_ports(settings.paths.ports))
    parts, supervisor = components(plan, embedded(settings))
    at, slots = plan.endpoints, _slots(settings)
    _look_for_releases(parts.get("triton"), at.triton_grpc, slots)

    def where(name: str, address: str | None) -> str | None:
        """A part's address while the stack is up; one outside this stack keeps its own."""
        here = parts.get(name)
        return address if here is None or supervisor is not None or here.pids else None

    private, paused = where("gateway", at.private), read_pause(settings.paths.pause)
    answers = private and parts["gateway"].state == "running"
    record = summary(settings.paths.traffic, f"{private}/metrics" if answers else None)
    return {
        "profile": settings.profile,
        "home": str(settings.home),
        "clock": _clock(settings),
        "gateway": {
            "url": where("gateway", at.gateway), "private_url": private,
            "hotkey": miners[0]["hotkey"] if private and miners else None, "miners": list(miners) if private else None,
            "paused": paused is not None, "reason": paused.reason if paused else None,
        },
        "triton": {"grpc": where("triton", at.triton_grpc)},
        "prefect": {"url": where("prefect", at.prefect)},
        "mlflow": {"url": where("mlflow", at.mlflow)},
        "s3": {"endpoint": where("s3", at.s3)},
        "metrics": {"url": f"{private}/metrics" if private else None},
        "slots": slots,
        "traffic": msgspec.to_builtins(record),
        "supervisor": {"state": "stopped" if supervisor is None else "running", "pid": supervisor},
        "components": {name: msgspec.to_builtins(part) for name, part in parts.items()},
    }  # fmt: skip


def healthy(document: dict[str, Any]) -> bool:
    """Whether everything runs, the supervisor included."""
    states = [document["supervisor"]["state"], *(part["state"] for part in document["components"].values())]
    return all(state == "running" for state in states)
