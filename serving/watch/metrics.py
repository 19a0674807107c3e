"""What the gateway counts. Every worker writes to files of its own; the private port adds them up.

What is counted for a request stays in memory until `Metrics.flush`, once a second (`serving.watch.tally` says why).

prometheus_client decides at its import whether values go to files, by PROMETHEUS_MULTIPROC_DIR, which the parent sets
for its workers; elsewhere (in tests) values stay in memory.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.call import STAGES, Call, Stages
from serving.traffic.records import Role
from serving.types import ReleaseId, SlotName
from serving.watch.tally import BatchHistogram, Tally, Timings

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
)  # fmt: skip
CLASSES = {1: "upper", 2: "middle", 3: "lower"}
"""Caller classes by priority, that is by rank of stake."""


class Metrics:
    """The gateway's metrics; every label has a bounded set of values, listed in the help text."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()

        def tally(name: str, meaning: str, labels: str) -> Tally:
            return Tally(Counter(name, meaning, labels.split(), registry=registry))

        def level(name: str, meaning: str, labels: str = "", mode: str = "livesum") -> Gauge:
            return Gauge(name, meaning, labels.split(), registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        self._requests = tally(
            "headframe_requests",
            "Requests answered. dialect: legacy, btauth, epistula, none. route: a synapse name, ping, other. "
            "outcome: ok, hung_up, aborted, or a refusal's code. "
            "caller: upper, middle, lower (third by stake), unknown.",
            "dialect route outcome caller",
        )
        self._refusals = tally(
            "headframe_refusals",
            "Requests refused. status: the HTTP status, 503 also where a subnet's callers are told another. code: why.",
            "status code",
        )
        self._stages = Timings(
            BatchHistogram(
                "headframe_stage_seconds",
                f"Time by stage of the road. stage: {', '.join(STAGES)}, total.",
                ["stage"],
                buckets=_SECONDS,
                registry=registry,
            ),
            [*STAGES, "total"],
        )
        self._releases = tally(
            "headframe_release_requests",
            "Requests given to a release. slot: a configured slot. release: its id. role: stable, canary, shadow, "
            "fallback, pinned. outcome: ok, invalid, error, late, away, dropped.",
            "slot release role outcome",
        )
        self._drift = tally(
            "headframe_schema_drift",
            "Good requests that stray from the subnet's schema as we know it. route: a synapse name. sign: what is "
            "odd, one of the subnet's own words for it (docs/add-a-subnet.md).",
            "route sign",
        )
        self._skew = level(
            "headframe_caller_clock_seconds",
            "Age of verified requests when they arrive, the median over callers; negative when their clocks are ahead.",
            mode="mostrecent",
        )
        self._in_flight = level("headframe_in_flight", "Requests in Triton now.")
        self._waiting = level("headframe_waiting", "Requests that wait for a place now.")
        self._lost = level(
            "headframe_traffic_lost", "Records that the disk refused since the gateway started.", mode="sum"
        )

        self._cut = tally(
            "headframe_connections_cut",
            "Connections closed by us. "
            "why: address (too many of one), total (too many), slow_head, slow_reader, aborted.",
            "why",
        )
        self._connections = level("headframe_connections", "Connections open now.")
        self._addresses = level(
            "headframe_junk_addresses", "Addresses (and hotkeys claimed from them) that sent junk of late."
        )
        self._breakers = level(
            "headframe_breakers_open",
            "Breakers that are open or half-open, over all workers. what: server (or it is silent), release.",
            "what",
        )

        self._age_s: float | None = None
        self._tallies = (self._requests, self._refusals, self._releases, self._drift, self._cut, self._stages)

    def flush(self) -> None:
        """Hand over what was counted since the last time."""
        for tally in self._tallies:
            tally.flush()
        if self._age_s is not None:
            self._skew.set(self._age_s)

    def request(self, *, dialect: str | None, route: str, outcome: str, call: Call | None, stages: Stages) -> None:
        """One finished request."""
        caller = CLASSES[call.caller.priority] if call is not None else "unknown"
        self._requests.add(dialect or "none", route, outcome, caller)
        self._stages.add((*stages.ns, stages.total_ns()))

    def refusal(self, status: int, code: str) -> None:
        """One refusal, also where no request could be read."""
        self._refusals.add(str(status), code)

    def release(self, slot: SlotName, release: ReleaseId, role: Role, outcome: str) -> None:
        """One request given to a release."""
        self._releases.add(slot, release, role, outcome)

    def drift(self, route: str, sign: str) -> None:
        """One sign that a subnet's schema moves."""
        self._drift.add(route, sign)

    def caller_clock(self, age_s: float) -> None:
        """The median age of requests whose signature was good."""
        self._age_s = age_s

    def levels(self, *, in_flight: int, waiting: int, lost: int) -> None:
        """How full this worker is."""
        self._in_flight.set(in_flight)
        self._waiting.set(waiting)
        self._lost.set(lost)

    def cut(self, why: str) -> None:
        """One connection that we closed on a caller."""
        self._cut.add(why)

    def door(self, *, connections: int, addresses: int) -> None:
        """What this worker's door holds."""
        self._connections.set(connections)
        self._addresses.set(addresses)

    def breakers(self, server: bool, releases: int) -> None:
        """Whether the server's breaker is open in this worker or it is silent, and how many releases' are open."""
        self._breakers.labels("server").set(server)
        self._breakers.labels("release").set(releases)
