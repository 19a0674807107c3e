"""What a gateway is told: one frozen object, which travels to its worker processes as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from serving.types import SlotName


class SubnetSpec(msgspec.Struct, frozen=True):
    """A subnet to serve: ``package.module:factory``, called with `options`, gives the Subnet."""

    factory: str
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class MinerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One hotkey of ours in one subnet."""

    hotkey: str
    """ss58: the receiver that every signature must name."""
    netuid: int
    neurons: str
    """Path of the subnet's ``neurons.json``; miners of one subnet share it."""
    slots: list[str]
    """Slots this miner promises to serve; /readyz wants a ready stable release for each."""
    subnets: list[SubnetSpec]
    stake_threshold: float = 1000.0
    """TAO of stake weight; a caller needs it and a validator permit."""
    allow: list[str] = msgspec.field(default_factory=list)
    """Hotkeys that need neither permit nor stake."""
    deny: list[str] = msgspec.field(default_factory=list)
    """Hotkeys refused whatever their stake."""

    @property
    def neurons_name(self) -> str:
        """What the neuron file is called in metrics, in /readyz and among the kept copies."""
        return Path(self.neurons).stem


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a gateway needs; no part of serving/ reads settings or the environment.

    Paths are text. Ports must be real ones, chosen before.
    """

    miners: list[MinerSpec]
    """At least one; each has a hotkey of its own. The first answers whoever names no receiver."""
    port: int
    """Public: validators' routes and nothing else."""
    private_port: int
    """Health and metrics."""
    bind: str = "127.0.0.1"
    private_bind: str = "127.0.0.1"
    workers: int = 2
    triton: str
    """host:port of Triton's gRPC service."""

    routes: str
    prices: str
    traffic: str
    """Folder of the traffic record."""
    nonces: str
    """Folder of the replay store (LMDB), and of the budgets."""
    redis: str = ""
    """URL of the Redis that remembers nonces for several boxes; empty: the store of this box."""
    run: str
    """Folder for metrics files, what the workers say of themselves, and the last good copies of the state files."""
    pause: str | None = None
    """``pause.json``: while it is there, every request is answered 503."""
    clock: str | None = None
    """``clock.json`` in profile ``local``; None means that the subnet's time is wall time."""
    skew: str | None = None
    """``clock-skew.json``, where somebody measures how far this machine's clock is off."""
    max_skew: float = 2.0
    """Seconds; /readyz tells of more."""

    requests_per_s: float = 50.0
    """Per hotkey, sustained, all workers together."""
    burst: int = 200
    """Requests that a hotkey may send at once before the sustained rate holds."""
    trusted_proxies: list[str] = msgspec.field(default_factory=list)
    """Addresses or networks of our own reverse proxies, whose ``X-Forwarded-For`` is believed."""
    junk_per_s: float = 20.0
    """Requests without a good signature that one address may send, sustained, to one worker."""
    junk_burst: int = 200
    """The same, at once."""
    connections_per_address: int = 512
    """Connections of one address to one worker, before any of them carried a good signature."""
    connections: int = 4096
    """Connections to one worker, as far as its limit of open files allows."""
    in_flight: int = 16
    """Requests that one worker has in Triton at a time, shared by the slots."""
    waiting: int = 64
    """Requests of each slot that may wait in one worker for a place in Triton."""
    shadows: int = 4
    """Shadow copies that one worker has in Triton at a time; more are dropped and counted."""

    routes_max_age: float = 86400.0
    """Seconds after which /readyz calls the file stale; the last routes stay in force."""
    neurons_max_age: float = 3600.0
    """Seconds after which /readyz calls the file stale; the last table stays in force."""
    prices_max_age: float = 600.0
    """Seconds after which /readyz calls the file stale; what a stale price means is the subnet's business."""

    traffic_disk_cap: int = 2_000_000_000
    """Bytes; above it shipped segments go, then the oldest bodies; digests stay until they are shipped."""
    traffic_keep_s: float = 14 * 86400.0
    """How long shipped records stay on this disk."""
    traffic_ship: bool = True
    """Whether somebody ships the record; where nobody does, every record goes after `traffic_keep_s`."""
    traffic_bodies: bool = True
    """Whether requests and tensors are recorded, without which nothing can be answered again or scored."""
    epistula: bool = False
    """Whether Epistula 2 is spoken beside legacy and btauth."""
    schemes: dict[str, str] = msgspec.field(default_factory=dict)
    """By hotkey, the one scheme (``sr25519`` or ``ed25519``) that it signs btauth by; others use what they declare."""
    monotonic_routes: list[str] = msgspec.field(default_factory=list)
    """Synapses that legacy callers before SDK 7.2 may call; their nonces are no times and have no window."""
    drain_s: float = 15.0
    """How long SIGTERM waits for what was admitted."""
    idle_grace_s: float = 1.0
    """How long SIGTERM leaves idle connections open: a caller may be just sending, and its reply then closes."""
    linger_s: float = 0.0
    """How long workers answer on when their parent is killed and the listening socket outlives it; 0 otherwise."""

    def slots(self) -> list[SlotName]:
        """Every slot that is promised to be served, once each."""
        return list(dict.fromkeys(SlotName(slot) for spec in self.miners for slot in spec.slots))

    def kept(self, name: str) -> Path:
        """Where the last good copy of a state file lies."""
        return Path(self.run) / "last-good" / f"{name}.json"


def encode(config: GatewayConfig) -> bytes:
    """The config as JSON."""
    return msgspec.json.encode(config)


def decode(data: bytes) -> GatewayConfig:
    """The config from JSON; raises msgspec.ValidationError."""
    return msgspec.json.decode(data, type=GatewayConfig)
