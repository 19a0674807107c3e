"""The miners behind one port: each a hotkey in a subnet, with routes and a welcome of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.config import GatewayConfig, MinerSpec
from serving.errors import UNAVAILABLE, Refusal, UserError
from serving.files import LOOK_EVERY_S
from serving.identity import Identity
from serving.subnets.base import Route
from serving.subnets.registry import make
from serving.types import Hotkey, NetUid, Seconds
from serving.wire import btauth, legacy
from serving.wire.claim import SENDERS
from serving.wire.keys import PublicKey, public_key


class Ping:
    """``POST /Synapse``: the base class without fields, by which validators of SDK 6 to 10 ask who is there."""

    synapse = "Synapse"
    hash_fields: Sequence[str] = ()
    model_order: Sequence[str] = ()
    monotonic_nonces = False
    max_body = 64 * 1024
    max_timeout = Seconds(12.0)
    retry_status = UNAVAILABLE

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        """Nothing is hashed."""
        return []


Routes = Mapping[bytes, Route | Ping]
"""Every path that is served, with the route behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Miner:
    """One hotkey of ours in one subnet."""

    hotkey: Hotkey
    """The receiver that every signature must name."""
    key: PublicKey
    netuid: NetUid
    identity: Identity
    """Who may call this miner."""
    routes: Routes


class Miners:
    """Finds the miner that a request is for."""

    def __init__(self, miners: Sequence[Miner]) -> None:
        """`miners`: at least one, each with a hotkey of its own."""
        self.first = miners[0]
        self.alone = len(miners) == 1
        self.all = tuple(miners)
        self.routes: Routes = {path: route for miner in reversed(miners) for path, route in miner.routes.items()}
        """The paths of all miners together; where two have the same, the first one's route."""
        self._by_hotkey = {str(miner.hotkey): miner for miner in miners}

    def named(self, receiver: str | None) -> Miner:
        """The miner with this hotkey, the first when a request names none; raises Refusal (401) for a stranger's.

        Nothing rests on it but the choice: the signature is checked with our miner's hotkey as receiver. Where there
        is one miner, it is always that one.
        """
        if receiver is None or self.alone:
            return self.first
        miner = self._by_hotkey.get(receiver)
        if miner is None:
            raise Refusal(401, "wrong_receiver", "the request was not signed for a hotkey of this miner")
        return miner

    def may_welcome(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request claims, in any dialect, a hotkey that one of the miners welcomes; nothing is decoded."""
        claimed = [value.decode("latin-1") for name, value in headers if name in SENDERS]
        return any(miner.identity.knows(hotkey) for hotkey in claimed for miner in self.all)

    def retention_s(self) -> float:
        """How long nonces are remembered: twice the widest window of any route in any dialect, in seconds."""
        longest = max(float(route.max_timeout) for miner in self.all for route in miner.routes.values())
        return 2 * max(longest + legacy.BEHIND_S + legacy.AHEAD_S, (btauth.BEHIND_NS + btauth.AHEAD_NS) / 1e9)


def routes_of(spec: MinerSpec, monotonic: Collection[str] = ()) -> dict[bytes, Route | Ping]:
    """Every path that a miner serves; raises UserError when a subnet cannot be made.

    `monotonic`: synapses that take the monotonic nonces of callers before SDK 7.2.
    """
    routes: dict[bytes, Route | Ping] = {b"/Synapse": Ping()}
    for subnet in make(spec.subnets):
        for route in subnet.routes:
            route.monotonic_nonces = route.synapse in monotonic
            routes[b"/" + route.synapse.encode()] = route
    return routes


def miners_of(config: GatewayConfig) -> Miners:
    """The miners that a config describes, reading their neuron files from now on."""
    return Miners(
        [
            Miner(
                hotkey=Hotkey(spec.hotkey),
                key=public_key(spec.hotkey),
                netuid=NetUid(spec.netuid),
                identity=Identity(
                    Path(spec.neurons), stake_threshold=spec.stake_threshold, allow=spec.allow, deny=spec.deny,
                    netuid=spec.netuid, kept=config.kept(spec.neurons_name), look_every_s=LOOK_EVERY_S,
                ),
                routes=routes_of(spec, config.monotonic_routes),
            )
            for spec in config.miners
        ]
    )  # fmt: skip


def check_miners(specs: Sequence[MinerSpec]) -> None:
    """Refuse miners that no gateway could be, in one line (UserError)."""
    if not specs:
        raise UserError("gateway: no miner is configured")
    taken: set[str] = set()
    for spec in specs:
        for name, hotkeys in (("hotkey", [spec.hotkey]), ("allow", spec.allow), ("deny", spec.deny)):
            for hotkey in hotkeys:
                check_hotkey(name, hotkey)
        if spec.hotkey in taken:
            raise UserError(f"gateway: two miners have the hotkey {spec.hotkey}; each needs its own")
        taken.add(spec.hotkey)
        routes_of(spec)


def check_hotkey(name: str, hotkey: str) -> None:
    """Refuse a hotkey of a setting `name` that is not spelt as on chain (UserError)."""
    try:
        public_key(hotkey)
    except Refusal as refused:
        raise UserError(f"gateway {name} {hotkey[:64]}: {refused.message}") from None
