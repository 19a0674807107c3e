"""Bringing a stack up and down: by readiness, in order, and with nothing left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from infra.ports import choose_ports, read_ports
from infra.settings import Settings
from infra.stack.checks import preflight
from infra.stack.config import files, write_private
from infra.stack.lock import stack_lock
from infra.stack.parts import Part, Plan, embedded
from infra.stack.processes import SUPERVISOR, marked, stop_marked, suspended
from infra.stack.supervisor import Supervisor, SupervisorGone, start_supervisor
from serving.errors import UserError

_POLL = 0.1
_PAUSE = 0.3
"""Seconds between two probes of one part: a busy server is not helped by being asked."""
_ASKED = 3
"""Bad answers in a row after which `up` takes a part that has a process to hang: a busy box may hold up one."""
_DEATHS = 2
"""A part that died this often while coming up is given up by `up`."""


class Tell(Protocol):
    """How a command hears what happens: a part's name (or ``""``), and what it does."""

    def __call__(self, part: str, what: str) -> None: ...


@dataclass
class Up:
    """What `up` did."""

    already: bool = False
    """Everything answered before it began."""
    started: list[str] = field(default_factory=list)
    """Parts it started, or started again."""
    replaced: list[str] = field(default_factory=list)
    """Left-overs of a stack whose supervisor had died, stopped first."""
    settings_changed: bool = False
    """The stack runs on the settings of its own `up`, which differ from today's."""
    seconds: float = 0.0


def last_words(log: Path) -> str:
    """The last line of a log, or the last that speaks of an error, for a one-line message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "it wrote nothing"
    telling = [line for line in lines[-30:] if "error" in line.lower() or "fatal" in line.lower()]
    return (telling or lines or ["it wrote nothing"])[-1][:300]


class NotReady(UserError):
    """A part did not come up."""

    def __init__(self, part: Part, reason: str, log: Path) -> None:
        super().__init__(f"{part.name} {reason}; its last word: {last_words(log)} (log: {log})")


class Starter:
    """Starts parts as what they need gets ready, all others at the same time, and waits for every one."""

    def __init__(self, supervisor: Supervisor, plan: Plan, tell: Tell) -> None:
        self._supervisor, self._plan, self._tell = supervisor, plan, tell
        self._since: dict[str, float] = {}
        self._before: dict[str, int] = {}
        self._probes: dict[str, Future[str | None]] = {}
        self._not_before: dict[str, float] = {}

    def run(self, parts: Iterable[Part], ready: Iterable[str] = ()) -> None:
        """Return when all `parts` are ready, `ready` ones being so already; NotReady names the first that fails."""
        waiting = {part.name: part for part in parts}
        done = set(ready)
        outside = {need for part in waiting.values() for need in part.needs} - waiting.keys()
        with ThreadPoolExecutor(max_workers=max(1, len(waiting)), thread_name_prefix="probe") as pool:
            while waiting:
                self._start_those_that_can(waiting, done | outside)
                for part in [part for name, part in waiting.items() if name in self._since]:
                    if self._is_ready(part, pool):
                        done.add(part.name)
                        del waiting[part.name]
                time.sleep(_POLL)

    def _is_ready(self, part: Part, pool: ThreadPoolExecutor) -> bool:
        """Take the answer of the part's probe if there is one, and ask again after a pause if it is a bad one."""
        now, name = time.monotonic(), part.name
        probe = self._probes.get(name)
        if probe is None:
            if now >= self._not_before.get(name, 0.0):
                self._probes[name] = pool.submit(part.probe, self._plan)
            return False
        if not probe.done():
            return False
        del self._probes[name]
        self._not_before[name] = now + _PAUSE
        if (reason := probe.result()) is not None:
            self._check(part, reason)
            return False
        self._tell(name, f"ready after {now - self._since[name]:.1f} s")
        return True

    def _start_those_that_can(self, waiting: dict[str, Part], done: set[str]) -> None:
        for name, part in waiting.items():
            if name not in self._since and done.issuperset(part.needs):
                self._before[name] = self._supervisor.restarts().get(name, -1)
                self._supervisor.start(name)
                self._since[name] = time.monotonic()
                self._tell(name, "starting")

    def _check(self, part: Part, reason: str) -> None:
        log = self._plan.paths.log / f"{part.name}.log"
        if self._supervisor.restarts().get(part.name, 0) - self._before[part.name] > _DEATHS:
            raise NotReady(part, "dies as soon as it is started", log)
        took = time.monotonic() - self._since[part.name]
        if took > part.start_limit:
            raise NotReady(part, f"{reason} {took:.0f} s after its start", log)


def up(settings: Settings, tell: Tell, *, chosen: Callable[[Settings], tuple[Part, ...]] = embedded) -> Up:
    """Bring the stack of this home up, or mend what is missing; returns when every part answers.

    Raises UserError, with nothing left half running, when a part cannot be brought up.
    """
    began = time.monotonic()
    preflight(settings)
    parts = chosen(settings)
    with stack_lock(settings.paths.run, waiting=lambda: tell("", "waiting for another 'up' or 'down' of this home")):
        supervisor = Supervisor(Plan(settings, {}).home)
        result = _mend(settings, parts, supervisor, tell) if supervisor.alive() else _start(settings, parts, tell)
    result.seconds = time.monotonic() - began
    return result


def _start(settings: Settings, parts: tuple[Part, ...], tell: Tell) -> Up:
    home = Plan(settings, {}).home
    replaced = stop_marked(home)
    if replaced:
        tell("", f"stopped what a dead supervisor had left running: {', '.join(replaced)}")
    plan = Plan(settings, choose_ports(settings))
    _prepare(plan, parts)
    try:
        Starter(start_supervisor(home), plan, tell).run(parts)
    except BaseException as error:
        tell("", "stopping everything again")
        _stop_all(home, parts, tell)
        if isinstance(error, UserError):
            raise UserError(f"{error}. Everything that had been started was stopped") from None
        raise
    return Up(started=[part.name for part in parts], replaced=replaced)


def _prepare(plan: Plan, parts: tuple[Part, ...]) -> None:
    paths = plan.paths
    for folder in (paths.log, paths.s3, paths.mlflow, paths.prefect, paths.models, paths.serving, paths.traffic):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}; use another home") from None
    for stale in ("sidecar.json", *(part.restarts_file for part in parts if part.restarts_file)):
        (paths.run / stale).unlink(missing_ok=True)  # of the last stack
    for path, text in files(plan, parts).items():
        write_private(path, text)


def _mend(settings: Settings, parts: tuple[Part, ...], supervisor: Supervisor, tell: Tell) -> Up:
    plan = Plan(settings, read_ports(settings.paths.ports))
    changed = any(not path.exists() or path.read_text() != text for path, text in files(plan, parts).items())
    infos, processes = supervisor.infos(), marked(plan.home)

    def ask(part: Part) -> str | None:
        own = processes.get(part.name, [])
        answer = suspended(own) or part.probe(plan)
        for _ in range(_ASKED - 1):
            if answer is None or not own or suspended(own):
                break
            time.sleep(_PAUSE)
            answer = part.probe(plan)
        return answer

    with ThreadPoolExecutor(max_workers=len(parts), thread_name_prefix="probe") as pool:
        answers = list(pool.map(ask, parts))
    missing = [part for part, answer in zip(parts, answers, strict=True) if answer is not None]
    unknown = [part.name for part in missing if part.name not in infos]
    if unknown:
        raise UserError(f"the running stack has no {', '.join(unknown)}: run 'headframe down' and 'headframe up'")
    for part in missing:
        if infos[part.name].statename in {"BACKOFF", "RUNNING"}:
            tell(part.name, "is there and does not answer: starting it again")
            supervisor.stop(part.name)
            stop_marked(plan.home, {part.name}, grace=2.0)  # what hangs does not hear the supervisor
            _wait_stopped(supervisor, part)
    Starter(supervisor, plan, tell).run(missing, (part.name for part in parts if part not in missing))
    return Up(already=not missing, started=[part.name for part in missing], settings_changed=changed)


def _wait_stopped(supervisor: Supervisor, part: Part) -> None:
    end = time.monotonic() + part.stop_limit + 10
    while supervisor.infos()[part.name].pid and time.monotonic() < end:
        time.sleep(_POLL)


def down(settings: Settings, tell: Tell) -> list[str]:
    """Stop the stack of this home in order, leave no process behind, and say which parts ran."""
    home = Plan(settings, {}).home
    if not settings.paths.run.is_dir():
        return []
    with stack_lock(settings.paths.run, waiting=lambda: tell("", "waiting for another 'up' or 'down' of this home")):
        return _stop_all(home, embedded(settings), tell)


def _stop_all(home: Path, parts: tuple[Part, ...], tell: Tell) -> list[str]:
    before = set(marked(home))
    supervisor = Supervisor(home)
    try:
        _stop_in_order(supervisor, parts, tell)
        supervisor.shutdown()
    except SupervisorGone:
        pass  # then what is left is found by its marker
    for rank in sorted({part.stop_rank for part in parts}):
        stop_marked(home, {part.name for part in parts if part.stop_rank == rank}, grace=10.0)
    stop_marked(home)
    return sorted(before - {SUPERVISOR})


def _stop_in_order(supervisor: Supervisor, parts: tuple[Part, ...], tell: Tell) -> None:
    known = {part.name: part for part in parts}
    for rank in sorted({part.stop_rank for part in parts}):
        infos = supervisor.infos()
        running = [p for p in known.values() if p.stop_rank == rank and p.name in infos and infos[p.name].pid]
        for part in running:
            tell(part.name, "stopping")
            supervisor.stop(part.name)
        for part in running:
            _wait_stopped(supervisor, part)
            tell(part.name, "stopped")
