"""Everything the stack stands on, looked at in one go."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator

from infra.effective import effective
from infra.ports import is_free, read_ports
from infra.settings import ROOT, Ports, Settings
from infra.stack.checks import Check, run
from infra.stack.gateway_checks import gateway_checks
from infra.stack.parts import Plan
from infra.stack.probes import read_sidecar
from infra.stack.processes import SUPERVISOR, marked
from infra.stack.selftest import triton_selftest
from infra.stack.supervisor import Supervisor
from serving.errors import UserError

_TIME_ERROR = 5
"""What adjtimex returns when nothing keeps the clock."""


def examine(settings: Settings) -> Iterator[Check]:
    """Every check, one after another as each is done; none raises."""
    faults = 0
    for check in run(settings):
        faults += check.verdict == "fail"
        yield check
    yield ports(settings)
    yield clock(settings)
    yield from gateway_checks(settings)
    yield stack(settings)
    yield sidecar(settings)
    yield (
        triton(settings) if not faults else Check("triton self-test", "warn", "not run", "mend the faults above first")
    )
    yield summary(settings)


def ports(settings: Settings) -> Check:
    """Every configured port is free, or held by this home's own stack."""
    ours = read_ports(settings.paths.ports) if marked(Plan(settings, {}).home) else {}
    wanted = {name: int(getattr(settings.ports, name)) for name in Ports.model_fields}
    taken = [
        f"{name} {port}"
        for name, port in wanted.items()
        if port and ours.get(name) != port and not is_free(port, settings.bind)
    ]
    if taken:
        remedy = "stop what listens there, or change [ports] in headframe.toml (0 picks a free one)"
        return Check("ports", "fail", f"taken on {settings.bind}: {', '.join(taken)}", remedy)
    fixed = [f"{name} {port}" for name, port in wanted.items() if port]
    return Check("ports", "ok", f"configured: {', '.join(fixed)}" if fixed else "all picked by the stack")


def clock(settings: Settings) -> Check:
    """The clock is later than this code, and somebody keeps it: signatures are judged by wall time."""
    newest = max((file.stat().st_mtime for file in (ROOT / "infra").glob("*.py")), default=0.0)
    if time.time() < newest - 86400:
        return Check("clock", "fail", "this machine's clock is older than this program", "set the clock")
    try:
        kept = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) != _TIME_ERROR
    except AttributeError:
        return Check("clock", "ok", "whether it is synchronised cannot be told on this system")
    if not kept and settings.profile != "local":
        return Check(
            "clock",
            "warn",
            "nothing synchronises the clock; validators' signatures expire in seconds",
            "run an NTP client",
        )
    return Check("clock", "ok", "synchronised" if kept else "not synchronised, which profile 'local' does not need")


def stack(settings: Settings) -> Check:
    """The stack is up, or down with nothing left over."""
    home = Plan(settings, {}).home
    found = marked(home)
    if Supervisor(home).alive():
        return Check("stack", "ok", "up: 'headframe status' tells more")
    if set(found) - {SUPERVISOR}:
        left = ", ".join(sorted(found))
        return Check("stack", "fail", f"its supervisor is dead, and {left} run on unwatched", "run 'headframe up'")
    return Check("stack", "ok", "down")


def sidecar(settings: Settings) -> Check:
    """Each duty of a running sidecar succeeds."""
    name, state = "sidecar", read_sidecar(settings.paths)
    if state is None or not marked(Plan(settings, {}).home).get("sidecar"):
        return Check(name, "ok", "not running")
    failing = [f"{duty}: {record.error}" for duty, record in state.duties.items() if record.failures]
    if failing:
        return Check(name, "warn", "; ".join(failing), f"see {settings.paths.log / 'sidecar.log'}")
    return Check(name, "ok", f"every duty succeeds: {', '.join(state.duties)}")


def triton(settings: Settings) -> Check:
    """A known tensor comes back right from a throw-away server."""
    name = "triton self-test"
    if settings.triton_grpc:
        return Check(name, "ok", f"not needed: Triton is at {settings.triton_grpc}")
    try:
        seconds = triton_selftest(settings.venv_triton)
    except (UserError, OSError) as error:
        return Check(name, "fail", str(error), "delete .venv-triton and run 'make env'")
    return Check(name, "ok", f"a known tensor came back right, {seconds:.1f} s")


def summary(settings: Settings) -> Check:
    """What was set, and where."""
    told = [f"{row.name}={row.value} ({row.source})" for row in effective(settings) if row.source != "default"]
    return Check("settings", "ok", f"profile {settings.profile}; {', '.join(told) or 'all defaults'}")
