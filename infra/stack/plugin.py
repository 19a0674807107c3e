"""What runs inside supervisord: it counts restarts, keeps the logs small and listening sockets open.

Supervisor keeps no such count, a part writes its log itself (see `launch`), and supervisor would close a socket that it
hands to a part (``fcgi-program``) with that part's death, so all of it is done here.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

MAX_BYTES = 20_000_000
KEEP = 3


def rotate(log: Path, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> bool:
    """Copy an overgrown log aside and empty it: its writer appends on, none the wiser."""
    if log.stat().st_size <= max_bytes:
        return False
    for number in range(keep - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)
    return True


class Plugin:
    """The XML-RPC namespace ``headframe``; supervisor hands out public methods only."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._starts: Counter[str] = Counter()
        self._sockets: dict[str, Any] = {}

    def restarts(self) -> dict[str, int]:
        """How often each part was started again since the supervisor came up."""
        return {name: starts - 1 for name, starts in self._starts.items()}

    def _on_start(self, event: Any) -> None:
        """Supervisor's event for every spawn, the first one included."""
        name = str(event.process.config.name)
        self._starts[name] += 1
        held = getattr(event.process, "fcgi_sock", None)
        if held is not None:  # supervisor counts the holders, and closes a socket that has none
            self._sockets.setdefault(name, held)

    def _on_tick(self, _event: Any) -> None:
        """Supervisor's event of every minute."""
        for log in self._log.glob("*.log"):
            rotate(log)


def make(_supervisord: Any) -> Plugin:
    """Supervisor calls this once, as it opens its socket."""
    from supervisor import events

    plugin = Plugin(Path(os.environ["HEADFRAME_HOME"]) / "log")
    events.subscribe(events.ProcessStateStartingEvent, plugin._on_start)
    events.subscribe(events.Tick60Event, plugin._on_tick)
    return plugin
