"""Keeps the files that serving reads fresh, and Triton holding what the routes name.

``python -m infra.sidecar``. Each duty has a thread of its own, so that one that fails or hangs stops no other; how
each fares is in ``run/sidecar.json``, rewritten every second.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from infra.settings import Settings, load_settings
from infra.stack.probes import Duty as Record
from infra.stack.probes import SidecarState
from serving.clock import replace_file
from serving.errors import UserError
from serving.watch.logs import configure

_LOOK = 0.2
"""Seconds between looks at whether a duty is due."""
log = structlog.get_logger()


@dataclass
class Duty:
    """Something to do again and again.

    `every` is in seconds and may change from time to time. `changed` gives a value; when it differs from that of the
    last run, the duty is due at once. After a failure the pause doubles, up to `longest_pause`.
    """

    name: str
    run: Callable[[], None]
    every: Callable[[], float]
    longest_pause: float = 5.0
    changed: Callable[[], object] = lambda: None
    record: Record = field(default_factory=Record)

    def loop(self, stop: threading.Event) -> None:
        """Until `stop`."""
        seen, due = object(), 0.0
        while True:
            sees = self.changed()
            if time.monotonic() >= due or sees != seen:
                seen = sees
                self.once()
                due = time.monotonic() + self.pause()
            if stop.wait(_LOOK):
                return

    def pause(self) -> float:
        """Seconds until the next run is due."""
        normal = self.every()
        if not self.record.failures:
            return normal
        return max(normal, min(normal * 2.0 ** min(self.record.failures, 20), self.longest_pause))

    def once(self) -> None:
        """Run it, and keep how that went; a failure is logged at the first, second, fourth, eighth... time in a row."""
        try:
            self.run()
        except Exception as error:  # whatever it is, the other duties go on
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.record.failures += 1
            self.record.error = text[:500]
            if self.record.failures & (self.record.failures - 1) == 0:
                known = isinstance(error, UserError)
                log.warning(
                    "duty failed", duty=self.name, failures=self.record.failures, error=text, exc_info=not known
                )
        else:
            if self.record.failures:
                log.info("duty works again", duty=self.name, failures=self.record.failures)
            self.record.failures, self.record.error = 0, None
            self.record.last_good = time.time()
        self.record.runs += 1


def serve(settings: Settings, duties: Sequence[Duty], stop: threading.Event) -> None:
    """Run the duties until `stop`, writing how they fare every second."""
    for duty in duties:
        threading.Thread(target=duty.loop, args=(stop,), name=duty.name, daemon=True).start()
    path = settings.paths.run / "sidecar.json"
    while True:
        state = SidecarState(time.time(), os.getpid(), {duty.name: duty.record for duty in duties})
        try:
            replace_file(path, msgspec.json.encode(state))
        except OSError as error:  # a full disk passes
            log.warning("cannot write", path=str(path), error=str(error))
        if stop.wait(1.0):
            return


def main() -> None:
    """Run every duty of this home until SIGTERM."""
    from infra.duties import all_duties

    configure("sidecar")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = load_settings()
    serve(settings, all_duties(settings), stop)


if __name__ == "__main__":
    main()
