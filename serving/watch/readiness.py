"""Whether this miner can answer: the facts behind ``/readyz``."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import msgspec
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.config import GatewayConfig
from serving.files import StateFile
from serving.state import NeuronTable, Pause, PriceBook, RouteTable, check_netuid, read_pause
from serving.watch.clocks import OwnClock
from serving.workers.acks import Ack, folder_of, living

ASK_TRITON_S = 1.0
"""Readiness of releases is asked for at most this often, and waited for no longer, however many they are."""
MAX_ASKED = 64
SILENT_S = 10.0
"""A worker without a beat for so long is called hung."""
AGREE_S = 5.0
"""How long workers may take to all put new routes in force before the miner counts as not ready."""


class State:
    """What the parent process knows of its workers."""

    def __init__(self) -> None:
        self.started = time.time()
        self.pids: list[int] = []
        """Oldest first."""
        self.began: list[float] = []
        """When each of them started, monotonic seconds."""
        self.taking: Callable[[], int] = lambda: 0
        """How many of them take connections at this moment."""
        self.left_over: list[int] = []
        """Workers of a killed parent that still answer."""
        self.restarts = 0
        self.draining = False


class Readiness:
    """Whether this miner can answer: a ready stable release for each slot, fresh files, a worker that takes calls."""

    def __init__(self, config: GatewayConfig, state: State) -> None:
        self.config = config
        self.state = state
        self.routes = StateFile(Path(config.routes), RouteTable, kept=config.kept("routes"))
        self.files: Mapping[str, tuple[StateFile[Any], float]] = {
            "routes": (self.routes, config.routes_max_age),
            **{
                spec.neurons_name: (
                    StateFile(
                        Path(spec.neurons), NeuronTable, partial(check_netuid, netuid=spec.netuid),
                        kept=config.kept(spec.neurons_name),
                    ),
                    config.neurons_max_age,
                )
                for spec in config.miners
            },
            "prices": (
                StateFile(Path(config.prices), PriceBook, kept=config.kept("prices")), config.prices_max_age,
            ),
        }  # fmt: skip
        self.clock = OwnClock(config)
        self._workers = folder_of(Path(config.run))
        self.generation = 0
        """Of the routes in the file."""
        self._changed = 0.0
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        """Another lock: the parent, which looks after its workers, must not wait for a silent Triton."""
        self._silent_until = 0.0
        self._stub: Any = None
        self._asked: dict[str, tuple[float, bool]] = {}

    def ages(self) -> dict[str, float | None]:
        """Age of each file in seconds; None when it was never there."""
        now = time.time()
        with self._lock:
            return {name: file.age(now) for name, (file, _) in self.files.items()}

    def keep_files(self) -> None:
        """Keep a copy of each file that was read well, for workers that start while it cannot be."""
        with self._lock:
            for file, _ in self.files.values():
                file.keep()
            table = self.routes.get()
        generation = table.generation if table is not None else 0
        if generation != self.generation:
            self.generation, self._changed = generation, time.monotonic()

    def optional_ages(self) -> dict[str, float]:
        """Age in seconds of the files that are there only when somebody set them: a pause, and recorded time."""
        ages = {}
        for name in ("pause", "clock", "skew"):
            with contextlib.suppress(OSError, TypeError):
                ages[name] = time.time() - Path(getattr(self.config, name)).stat().st_mtime
        return ages

    def health(self) -> dict[str, Any]:
        """The facts behind /healthz: ``ok`` while a worker is there, takes connections and shows its beat."""
        now, own = time.monotonic(), set(self.state.pids)
        silent = {ack.pid: now - ack.beat > SILENT_S for ack in self.acks() if ack.pid in own}
        return {
            "ok": not all(silent.values()) if silent else False,
            "hung": [pid for pid, hangs in silent.items() if hangs],
            "uptime_s": round(time.time() - self.state.started, 3),
        }

    def acks(self) -> list[Ack]:
        """What every worker last said of itself, those of a killed parent included."""
        return living(self._workers)

    def pause(self) -> Pause | None:
        """The pause in force, if any."""
        return read_pause(Path(self.config.pause)) if self.config.pause is not None else None

    def generations(self, acks: Iterable[Ack]) -> dict[str, Any]:
        """Which routes the file and the workers have, and whether they agree or still have time to."""
        found = [ack.routes for ack in acks]
        same = all(generation == self.generation for generation in found)
        agreed = same or time.monotonic() - self._changed < AGREE_S
        return {"file": self.generation, "workers": found, "agreed": agreed}

    def report(self) -> dict[str, Any]:
        """The facts behind /readyz, and ``ready`` itself."""
        ages = self.ages()
        files = {}
        for name, (file, limit) in self.files.items():
            age = ages[name]
            fresh = age is not None and age <= limit and file.problem is None
            files[name] = {"age_s": age, "limit_s": limit, "fresh": fresh, "problem": file.problem}
        slots = {slot: self._slot(slot) for spec in self.config.miners for slot in spec.slots}
        workers = {
            "want": self.config.workers, "have": len(self.state.pids), "taking": self.state.taking(),
            "restarts": self.state.restarts,
        }  # fmt: skip
        routes, paused = self.generations(self.acks()), self.pause()
        ready = (
            not self.state.draining
            and paused is None
            and routes["agreed"]
            and bool(workers["taking"] or self.state.left_over)
            and all(slot["ready"] for slot in slots.values())
            and all(file["fresh"] for file in files.values())
        )
        return {
            "ready": ready, "draining": self.state.draining, "paused": msgspec.to_builtins(paused), "slots": slots,
            "files": files, "routes": routes, "workers": workers, "clock": self.clock.report(),
        }  # fmt: skip

    def _slot(self, slot: str) -> dict[str, Any]:
        with self._lock:
            table = self.routes.get()
        route = table.slots.get(slot) if table is not None else None  # type: ignore[call-overload]
        stable = route.stable if route is not None else None
        return {"stable": stable, "ready": stable is not None and self._release_ready(stable)}

    def _release_ready(self, release: str) -> bool:
        with self._asking:
            asked, ready = self._asked.get(release, (-math.inf, False))
            if time.monotonic() - asked < ASK_TRITON_S:
                return ready
            ready = time.monotonic() >= self._silent_until and self._ask(release)
            if len(self._asked) > MAX_ASKED:
                self._asked.clear()
            self._asked[release] = (time.monotonic(), ready)
            return ready

    def _ask(self, release: str) -> bool:
        if self._stub is None:
            options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 50)]
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(
                grpc.insecure_channel(self.config.triton, options=options)
            )
        try:
            request = service_pb2.ModelReadyRequest(name=release)
            return bool(self._stub.ModelReady(request, timeout=ASK_TRITON_S).ready)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._silent_until = time.monotonic() + ASK_TRITON_S
            return False
