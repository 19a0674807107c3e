"""The private port: health, readiness, metrics and worker pids, for supervisors and Prometheus on the same box."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serving.watch.departed import READING
from serving.watch.readiness import Readiness


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
            "+Inf when it was never there. pause, clock and skew only while they are there.",
            labels=["file"],
        )
        for name, age in self.readiness.ages().items():
            ages.add_metric([name], float("inf") if age is None else age)
        for name, age in self.readiness.optional_ages().items():
            ages.add_metric([name], age)
        yield ages
        yield GaugeMetricFamily("headframe_started_seconds", "When the gateway started, unix s.", value=state.started)
        yield GaugeMetricFamily("headframe_ready", "1 when /readyz says ready.", value=self.readiness.report()["ready"])
        paused = self.readiness.pause() is not None
        yield GaugeMetricFamily("headframe_paused", "1 while every request is answered 503 on purpose.", value=paused)
        yield from self.readiness.clock.collect()
        yield from self._workers()

    def _workers(self) -> Iterable[Metric]:
        """How many there are, how long they live, and how far the routes got in them."""
        state, acks, now = self.readiness.state, self.readiness.acks(), time.monotonic()
        yield GaugeMetricFamily("headframe_workers", "Worker processes alive.", value=len(state.pids))
        hung = len(self.readiness.health()["hung"])
        yield GaugeMetricFamily("headframe_workers_hung", "Workers that show no beat.", value=hung)
        yield CounterMetricFamily("headframe_worker_restarts", "Workers started again.", value=state.restarts)
        uptime = GaugeMetricFamily(
            "headframe_worker_uptime_seconds",
            "Time since a worker started. worker: 0, 1... from the oldest to the newest.",
            labels=["worker"],
        )
        for number, began in enumerate(state.began):
            uptime.add_metric([str(number)], now - began)
        yield uptime
        routes = GaugeMetricFamily(
            "headframe_route_generation",
            "Generation of the routes. of: file (routes.json), oldest and newest (in force in a worker), drained (no "
            "worker has a call on a release that it does not name).",
            labels=["of"],
        )
        found = [ack.routes for ack in acks]
        drained = [ack.drained for ack in acks]
        routes.add_metric(["file"], self.readiness.generation)
        routes.add_metric(["oldest"], min(found, default=0))
        routes.add_metric(["newest"], max(found, default=0))
        routes.add_metric(["drained"], min(drained, default=0))
        yield routes


class Counts(MultiProcessCollector):
    """What workers count, while nobody adds up the counts of dead ones."""

    def collect(self) -> Iterable[Metric]:
        """Read every file."""
        with READING:
            return list(super().collect())  # type: ignore[no-untyped-call]


def render(folder: Path, readiness: Readiness, *more: Collector) -> bytes:
    """All metrics in Prometheus' text format, added up over the workers that live and lived."""
    registry = CollectorRegistry()
    Counts(registry, path=str(folder))  # type: ignore[no-untyped-call]
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
        health = readiness.health()
        return as_json(200 if health["ok"] else 503, health)

    def workers() -> Page:
        facts = {
            "pids": state.pids, "left_over": state.left_over, "restarts": state.restarts, "draining": state.draining,
            "said": readiness.acks(),
        }  # fmt: skip
        return as_json(200, facts)

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
