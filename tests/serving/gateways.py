"""A gateway inside the test's process: everything real but Triton and the clock."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry

from serving.admission.budgets import Budgets
from serving.admission.estimate import ServiceTimes
from serving.admission.queue import Admission
from serving.answering import Answerer, Infers
from serving.app import Gateway
from serving.clock import Clock
from serving.files import LOOK_EVERY_S, StateFile
from serving.identity import Identity
from serving.miners import Miner, Miners, Ping
from serving.nonces.store import NonceStore, open_store, prepare_store
from serving.pins import Pins
from serving.public.door import Door
from serving.routes import RouteReader
from serving.state import Canary, Neuron, NeuronTable, PriceBook, RouteTable, SlotRoute, write_state
from serving.subnets.base import Route, Subnet
from serving.traffic.writer import TrafficWriter, read_records
from serving.types import Hotkey, ReleaseId, SlotName
from serving.watch.metrics import Metrics
from serving.watch.request_log import RequestLog
from serving.wire.keys import public_key
from tests.serving import callers
from tests.serving.tiny import SLOT, tiny

NEURONS = [
    Neuron(Hotkey(callers.ALICE.ss58_address), 1, 100_000.0, True),
    Neuron(Hotkey(callers.BOB.ss58_address), 2, 50_000.0, True),
    Neuron(Hotkey(callers.CHARLIE.ss58_address), 3, 20_000.0, True),
    Neuron(Hotkey(callers.DAVE.ss58_address), 4, 500.0, False),
    Neuron(Hotkey(callers.EVE.ss58_address), 5, 0.0, False),
]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["message"])


class Wall:
    """Wall time in nanoseconds that a test may set."""

    def __init__(self) -> None:
        self.at: int | None = None

    def __call__(self) -> int:
        return time.time_ns() if self.at is None else self.at


def write_routes(
    home: Path, *, stable: str | None, canary: str | None = None, share_bp: int = 0, shadow: str | None = None,
    fallback: str | None = None, slot: SlotName = SLOT, generation: int = 1,
) -> None:  # fmt: skip
    """Replace routes.json for one slot; a request that is sent after the return finds it."""

    def release(name: str | None) -> ReleaseId | None:
        return ReleaseId(name) if name else None

    chosen = SlotRoute(
        stable=release(stable), canary=Canary(ReleaseId(canary), share_bp) if canary else None,
        shadow=release(shadow), fallback=release(fallback),
    )  # fmt: skip
    replace(home / "routes.json", RouteTable(generation, time.time(), {slot: chosen}))


def write_neurons(home: Path, neurons: list[Neuron] | None = None) -> None:
    """Replace neurons.json, as `write_routes` does."""
    replace(home / "neurons.json", NeuronTable(1, time.time(), NEURONS if neurons is None else neurons))


def replace(path: Path, state: RouteTable | NeuronTable) -> None:
    """Write a state file and wait until every process that looked at the old one will look again."""
    write_state(path, state)
    time.sleep(LOOK_EVERY_S)


class Box:
    """One gateway, its home, and the means to ask it."""

    def __init__(
        self, home: Path, triton: Infers, *, subnet: Subnet | None = None, receiver: Any = callers.MINER,
        started_ns: int | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self.home = home
        self.wall = Wall()
        subnet = subnet or tiny()
        routes: dict[bytes, Route | Ping] = {b"/" + route.synapse.encode(): route for route in subnet.routes}
        routes[b"/Synapse"] = Ping()
        if not (home / "neurons.json").exists():
            write_neurons(home)
        prepare_store(home / "nonces", started_ns or time.time_ns() - 3600 * 10**9)
        self.env = open_store(home / "nonces")
        self.registry = CollectorRegistry()
        self.traffic = TrafficWriter(home / "traffic")
        metrics = Metrics(self.registry)
        times = ServiceTimes()
        self.answerer = Answerer(
            routes=RouteReader(home / "routes.json"), prices=StateFile(home / "prices.json", PriceBook),
            pins=Pins(self.env), triton=triton,
            traffic=self.traffic, metrics=metrics, shadows=options.pop("shadows", 4), times=times,
            breakers=options.pop("breakers", None),
        )  # fmt: skip
        identity = Identity(
            home / "neurons.json", stake_threshold=1000.0, allow=options.pop("allow", ()), deny=options.pop("deny", ()),
        )  # fmt: skip
        hotkeys = dict.fromkeys([receiver.ss58_address, *options.pop("also", ())])
        own = [
            Miner(hotkey=Hotkey(hotkey), key=public_key(hotkey), netuid=subnet.netuid, identity=identity, routes=routes)
            for hotkey in hotkeys
        ]
        miners = Miners([*own, *options.pop("more_miners", ())])
        self.gateway = Gateway(
            miners=miners,
            nonces=options.pop("nonces", None)
            or NonceStore(self.env, home / "nonces", retention_s=miners.retention_s()),
            door=options.pop("door", Door()),
            budgets=Budgets(self.env, per_s=options.pop("per_s", 1000.0), burst=options.pop("burst", 1000)),
            admission=Admission(
                in_flight=options.pop("in_flight", 8), waiting=options.pop("waiting", 8), slots=subnet.slots,
                times=times,
            ),
            answerer=self.answerer,
            traffic=self.traffic,
            metrics=metrics,
            clock=options.pop("clock", Clock()),
            log=_Silent(),
            requests=RequestLog("test", io.BytesIO()),
            wall_ns=self.wall,
            **options,
        )  # fmt: skip

    def close(self) -> None:
        self.traffic.close()
        self.env.close()

    def count(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        self.gateway.metrics.flush()
        return sum(
            sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def codes(self) -> list[str]:
        """What became of the calls on record, in the order in which they ended."""
        return [record.code for record in read_records(self.home / "traffic")]

    async def ask(self, request: callers.Request, *, extra: list[tuple[bytes, bytes]] | None = None) -> Reply:
        """Send a request through the ASGI interface."""
        named = {**request.headers, "Content-Length": str(len(request.body))}
        headers = [(name.lower().encode(), value.encode()) for name, value in named.items()] + (extra or [])
        return await self.raw(request.method, request.target.encode(), headers, [request.body])

    async def raw(self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: list[bytes]) -> Reply:
        """Send exactly these headers and body pieces."""
        path, _, query = target.partition(b"?")
        scope: MutableMapping[str, Any] = {
            "type": "http", "method": method, "path": path.decode("latin-1"), "raw_path": path, "query_string": query,
            "headers": headers,
        }  # fmt: skip
        pieces = [
            {"type": "http.request", "body": piece, "more_body": number + 1 < len(body)}
            for number, piece in enumerate(body)
        ]
        sent: list[Mapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return pieces.pop(0) if pieces else {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await self.gateway(scope, receive, send)
        if not sent:
            return Reply(0, {}, b"")
        start, *content = sent
        named = {name.decode(): value.decode() for name, value in start["headers"]}
        return Reply(start["status"], named, b"".join(message["body"] for message in content))


class _Silent:
    def info(self, event: str, **facts: Any) -> None:
        msgspec.json.encode(facts)

    def exception(self, event: str, **facts: Any) -> None:
        raise AssertionError(event)
