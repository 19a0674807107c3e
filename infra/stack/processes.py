"""Whose process is this: every process of a stack carries its home and its part's name in its environment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

HOME = "HEADFRAME_HOME"
COMPONENT = "HEADFRAME_COMPONENT"
"""Set for the parts only, never by a person: a shell that exports HEADFRAME_HOME is not part of the stack."""
SUPERVISOR = "supervisor"


def markers(home: Path, component: str) -> dict[str, str]:
    """The environment that marks a process as one part of the stack of `home`."""
    return {HOME: os.path.realpath(home), COMPONENT: component}


def _component(process: psutil.Process, home: str, uid: int) -> str | None:
    try:
        if process.uids().real != uid or process.status() == psutil.STATUS_ZOMBIE:
            return None
        environ = process.environ()
    except (psutil.Error, OSError):
        return None
    if environ.get(HOME) != home:
        return None
    return environ.get(COMPONENT)


def marked(home: Path) -> dict[str, list[psutil.Process]]:
    """Our own processes that belong to the stack of `home`, by part; never this process or its ancestors."""
    real, uid = os.path.realpath(home), os.getuid()
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        if process.pid in spared:
            continue
        component = _component(process, real, uid)
        if component:
            found.setdefault(component, []).append(process)
    return found


def suspended(processes: Collection[psutil.Process]) -> str | None:
    """Which of the processes was stopped by a signal and does nothing, in a few words; None when none was."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED:
                return f"process {process.pid} is suspended"
    return None


def stop(processes: Collection[psutil.Process], grace: float) -> None:
    """Ask the processes to end, and kill those that outlive `grace` seconds."""
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(list(processes), timeout=grace)
    for process in alive:
        _signal(process.kill)
    psutil.wait_procs(alive, timeout=10)


def _signal(send: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        send()


def stop_marked(home: Path, components: Collection[str] | None = None, grace: float = 5.0) -> list[str]:
    """Stop every marked process of `home` (of `components` only, if given), and say which parts had any.

    A part may start children while it is being stopped, so it looks again until none is left.
    """
    stopped: set[str] = set()
    for _ in range(5):
        found = {name: ps for name, ps in marked(home).items() if components is None or name in components}
        if not found:
            break
        stopped.update(found)
        supervisors = found.pop(SUPERVISOR, [])
        if supervisors:  # first, and at once: else it would start again what is being stopped
            stop(supervisors, 0.0)
        stop([process for ps in found.values() for process in ps], grace)
    return sorted(stopped)
