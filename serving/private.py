"""The private port: health, readiness, metrics and worker pids, for supervisors and Prometheus on the same box."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.config import GatewayConfig
from serving.files import StateFile
from serving.state import NeuronTable, PriceBook, RouteTable

ASK_TRITON_S = 1.0
"""Readiness of releases is asked for at most this often, and waited for no longer."""
MAX_ASKED = 64


class State:
    """What the parent process knows of its workers."""

    def __init__(self) -> None:
        self.started = time.time()
        self.pids: list[int] = []
        self.restarts = 0
        self.draining = False


class Readiness:
    """Whether this miner can answer: a ready stable release for each slot, fresh files, workers alive."""

    def __init__(self, config: GatewayConfig, state: State) -> None:
        self.config = config
        self.state = state
        self.routes = StateFile(Path(config.routes), RouteTable, kept=config.kept("routes"))
        self.files: Mapping[str, tuple[StateFile[Any], float]] = {
            "routes": (self.routes, config.routes_max_age),
            **{
                spec.neurons_name: (
                    StateFile(Path(spec.neurons), NeuronTable, kept=config.kept(spec.neurons_name)),
                    config.neurons_max_age,
                )
                for spec in config.miners
            },
            "prices": (
                StateFile(Path(config.prices), PriceBook, kept=config.kept("prices")), config.prices_max_age,
            ),
        }  # fmt: skip
        self._lock = threading.Lock()
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

    def report(self) -> dict[str, Any]:
        """The facts behind /readyz, and ``ready`` itself."""
        ages = self.ages()
        files = {}
        for name, (file, limit) in self.files.items():
            age = ages[name]
            fresh = age is not None and age <= limit and file.problem is None
            files[name] = {"age_s": age, "limit_s": limit, "fresh": fresh, "problem": file.problem}
        slots = {slot: self._slot(slot) for spec in self.config.miners for slot in spec.slots}
        workers = {"want": self.config.workers, "have": len(self.state.pids), "restarts": self.state.restarts}
        ready = (
            not self.state.draining
            and bool(self.state.pids)
            and all(slot["ready"] for slot in slots.values())
            and all(file["fresh"] for file in files.values())
        )
        return {"ready": ready, "draining": self.state.draining, "slots": slots, "files": files, "workers": workers}

    def _slot(self, slot: str) -> dict[str, Any]:
        with self._lock:
            table = self.routes.get()
        route = table.slots.get(slot) if table is not None else None  # type: ignore[call-overload]
        stable = route.stable if route is not None else None
        return {"stable": stable, "ready": stable is not None and self._release_ready(stable)}

    def _release_ready(self, release: str) -> bool:
        with self._lock:
            asked, ready = self._asked.get(release, (0.0, False))
            if time.monotonic() - asked < ASK_TRITON_S:
                return ready
            ready = self._ask(release)
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
        except grpc.RpcError:
            return False


class ParentMetrics(Collector):
    """What only the parent knows, as a Prometheus collector."""

    def __init__(self, readiness: Readiness) -> None:
        self.readiness = readiness

    def collect(self) -> Iterable[Metric]:
        """Ages of the files at this moment, and the state of the processes."""
        state = self.readiness.state
        ages = GaugeMetricFamily(
            "headframe_file_age_seconds",
            "Age of a file that serving depends on. file: routes, prices, neurons, neurons-<netuid> of further ones. "
            "+Inf when it was never there.",
            labels=["file"],
        )
        for name, age in self.readiness.ages().items():
            ages.add_metric([name], float("inf") if age is None else age)
        yield ages
        yield GaugeMetricFamily("headframe_workers", "Worker processes alive.", value=len(state.pids))
        yield CounterMetricFamily("headframe_worker_restarts", "Workers started again.", value=state.restarts)
        yield GaugeMetricFamily("headframe_started_seconds", "When the gateway started, unix s.", value=state.started)


def render(folder: Path, readiness: Readiness, *more: Collector) -> bytes:
    """All metrics in Prometheus' text format, added up over the workers that live and lived."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    for collector in (ParentMetrics(readiness), *more):
        registry.register(collector)
    return generate_latest(registry)


Page = tuple[int, str, bytes]


def pages(readiness: Readiness, folder: Path, *more: Collector) -> dict[str, Callable[[], Page]]:
    """What the private port serves, by path: status, content type, body."""
    state = readiness.state

    def as_json(status: int, value: Any) -> Page:
        return status, "application/json", msgspec.json.encode(value)

    def readyz() -> Page:
        report = readiness.report()
        return as_json(200 if report["ready"] else 503, report)

    def healthz() -> Page:
        alive = bool(state.pids)
        return as_json(200 if alive else 503, {"ok": alive, "uptime_s": round(time.time() - state.started, 3)})

    def workers() -> Page:
        return as_json(200, {"pids": list(state.pids), "restarts": state.restarts, "draining": state.draining})

    def metrics() -> Page:
        return 200, CONTENT_TYPE_LATEST, render(folder, readiness, *more)

    return {"/healthz": healthz, "/readyz": readyz, "/workers": workers, "/metrics": metrics}


def private_server(address: tuple[str, int], served: Mapping[str, Callable[[], Page]]) -> ThreadingHTTPServer:
    """A small HTTP server, bound and not yet serving; raises OSError when the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10  # seconds for a slow client

        def do_GET(self) -> None:
            page = served.get(self.path.partition("?")[0])
            status, kind, body = page() if page else (404, "application/json", b'{"message":"no such page"}')
            self.send_response_only(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Health checks are not worth a log line."""

    server = ThreadingHTTPServer(address, Handler)
    server.daemon_threads = True
    return server
