"""The gateway's workers as its parent sees them: started, counted, watched, replaced and sent home."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.clock import replace_file
from serving.config import GatewayConfig, encode
from serving.watch.departed import depart
from serving.workers.acks import Ack, alive, folder_of, living
from serving.workers.balance import AWAY, Shares

STABLE_S = 5.0
"""A worker that lived this long is started again at once; one that did not, after a growing pause."""
LONGEST_PAUSE_S = 5.0
_DOUBLINGS = 10
"""After so many the pause is the longest long since; a power of two grows beyond any float."""
HUNG_S = 30.0
"""A worker without a beat for so long is killed, and replaced; one that starts has twice the time."""
DOUBTFUL_S = 3.0
"""Silence after which it is asked whether the disk takes a beat at all."""
LONGEST_STEP_S = 0.5
"""A look that comes later than this counts as this much: when the whole machine stood still, no worker is to blame."""
PROBE_FILE = "probe"
RESTARTS_FILE = "worker_restarts"
"""Below the run folder: how often workers were started again, kept over the death of a parent."""


@dataclass
class Worker:
    """One process of ours."""

    process: subprocess.Popen[bytes]
    started: float
    """Monotonic seconds."""
    place: int
    """In the memory that all workers share."""
    beat: float = 0.0
    silent_s: float = 0.0


class Crew:
    """As many workers as the config wants, all on one listening socket."""

    def __init__(
        self, config: GatewayConfig, listener: socket.socket, metrics: Path, log: Any, *, module: str
    ) -> None:  # fmt: skip
        """`module` is what a worker process runs, `metrics` where it keeps its counts."""
        self.config = config
        self.folder = folder_of(Path(config.run))
        self.workers: list[Worker] = []
        self.left_over: list[Ack] = living(self.folder)
        """Workers of a parent that was killed; they answer until ours are ready."""
        self._listener = listener
        self._module = module
        self._shares = Shares.reserve(config.workers)
        self._metrics = metrics
        self._log = log
        self._count = Path(config.run) / RESTARTS_FILE
        self.restarts = _counted(self._count)
        self._fast_deaths = 0
        self._not_before = 0.0
        self._looked = time.monotonic()
        self._relieved: float | None = None
        self._trouble = False
        if self.left_over:
            log.info("workers of a killed parent answer on", left_over=self._names(self.left_over))

    @property
    def pids(self) -> list[int]:
        """Of our own workers, oldest first."""
        return [worker.process.pid for worker in self.workers]

    def taking(self) -> int:
        """How many of our own workers take connections."""
        return self._shares.taking()

    def tick(self) -> None:
        """Replace who died or hangs, and relieve who was left over; what cannot be done now, the next tick does."""
        try:
            self._reap()
            self._fill()
            self._watch()
            if self.left_over:
                self._relieve()
            self._trouble = False
        except OSError as error:  # such as a shortage of open files: those that live answer on
            if not self._trouble:
                self._log.error("the workers cannot be looked after", error=error.strerror)
            self._trouble = True

    def close(self) -> None:
        """Stop accepting, let every worker finish what it admitted, and kill whoever does not come to an end."""
        self._listener.close()
        for worker in self.workers:
            worker.process.send_signal(signal.SIGTERM)
        self._tell(self.left_over, signal.SIGTERM)
        end = time.monotonic() + self._patience_s()
        for worker in self.workers:
            try:
                worker.process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._log.error("worker did not drain", worker=worker.process.pid)
                worker.process.kill()
                worker.process.wait()
        self.workers = []
        while self._still_there() and time.monotonic() < end:
            time.sleep(0.02)
        self._tell(self.left_over, signal.SIGKILL)

    def _fill(self) -> None:
        """Start workers until there are as many as wanted, unless they die as soon as they start."""
        now = time.monotonic()
        while len(self.workers) < self.config.workers and now >= self._not_before:
            place = min(set(range(self.config.workers)) - {worker.place for worker in self.workers})
            try:
                process = self._spawn(place)
            except OSError as error:  # no memory or process is to be had: those that live answer on
                self._not_before = now + LONGEST_PAUSE_S
                self._log.error("a worker cannot be started", error=error.strerror, pause_s=LONGEST_PAUSE_S)
                return
            self.workers.append(Worker(process, now, place))

    def _spawn(self, place: int) -> subprocess.Popen[bytes]:
        packages = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
        fd = self._listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", self._module, *map(str, (fd, os.getpid(), self._shares.fd, place))],
            stdin=subprocess.PIPE,
            pass_fds=[fd, self._shares.fd],
            env={**os.environ, "PYTHONPATH": path, "PROMETHEUS_MULTIPROC_DIR": str(self._metrics)},
        )
        assert process.stdin is not None
        try:
            process.stdin.write(encode(self.config))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it is dead already, and is reaped at the next tick
        return process

    def _reap(self) -> None:
        """Forget dead workers; the next `_fill` replaces them."""
        now = time.monotonic()
        for worker in [w for w in self.workers if w.process.poll() is not None]:
            self.workers.remove(worker)
            self._shares.put(worker.place, AWAY)
            self.restarts += 1
            with contextlib.suppress(OSError):  # a full disk is no reason to stop
                replace_file(self._count, str(self.restarts).encode())
            self._fast_deaths = self._fast_deaths + 1 if now - worker.started < STABLE_S else 0
            pause = _pause(self._fast_deaths)
            self._not_before = now + pause
            self._forget(worker.process.pid)
            status = worker.process.returncode
            self._log.error("worker died", worker=worker.process.pid, status=status, pause_s=pause)

    def _watch(self) -> None:
        """Kill a worker that hangs; the connections it took would wait for ever."""
        now = time.monotonic()
        if now - self._looked < LONGEST_STEP_S / 2:
            return
        step, self._looked = min(now - self._looked, LONGEST_STEP_S), now
        if any(worker.silent_s > DOUBTFUL_S for worker in self.workers) and not self._disk_takes_writes():
            return  # they may be well and unable to say so
        beats = {ack.pid: ack.beat for ack in living(self.folder)}
        for worker in self.workers:
            beat = beats.get(worker.process.pid, 0.0)
            worker.silent_s = 0.0 if beat != worker.beat else worker.silent_s + step
            worker.beat = beat
            if worker.silent_s > (HUNG_S if beat else 2 * HUNG_S):
                self._log.error("worker hangs and is killed", worker=worker.process.pid)
                worker.process.kill()

    def _disk_takes_writes(self) -> bool:
        try:
            replace_file(self._count.with_name(PROBE_FILE), bytes(4096))
        except OSError:
            return False
        return True

    def _relieve(self) -> None:
        """Send the left-over workers home once ours are ready."""
        if not self._still_there():
            self._log.info("the left-over workers are gone")
            return
        if self._relieved is None:
            ready = {ack.pid for ack in living(self.folder)}
            if len(self.workers) == self.config.workers and ready.issuperset(self.pids):
                self._relieved = time.monotonic()
                self._tell(self.left_over, signal.SIGTERM)
        elif time.monotonic() - self._relieved > self._patience_s():
            self._tell(self.left_over, signal.SIGKILL)

    def _still_there(self) -> bool:
        for ack in [ack for ack in self.left_over if not alive(ack)]:
            self.left_over.remove(ack)
            self._forget(ack.pid)
        return bool(self.left_over)

    def _forget(self, pid: int) -> None:
        depart(self._metrics, pid)
        with contextlib.suppress(OSError):
            (self.folder / f"{pid}.json").unlink(missing_ok=True)

    def _patience_s(self) -> float:
        return self.config.idle_grace_s + self.config.drain_s + 5.0

    def _tell(self, acks: Iterable[Ack], sig: signal.Signals) -> None:
        for ack in acks:
            if alive(ack):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(ack.pid, sig)

    @staticmethod
    def _names(acks: Iterable[Ack]) -> list[int]:
        return [ack.pid for ack in acks]


def _pause(fast_deaths: int) -> float:
    """Seconds before the next start, after so many workers in a row that died as soon as they started."""
    return min(0.1 * 2 ** min(fast_deaths, _DOUBLINGS), LONGEST_PAUSE_S) if fast_deaths > 1 else 0.0


def _counted(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
