"""A taowire 0.1.0a2 miner with a trivial handler; run by the interpreter of ``bench/taowire.lock``.

``taowire_miner.py PORT METRICS_PORT`` serves until it is ended: one worker, its own memory stores, rate limits far
above the load, INFO logs off, an in-memory chain, the legacy bridge on. Everything else is its default, signed
replies included.
"""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel
from taowire.compat import Synapse
from taowire.config import HostPort, MinerSettings
from taowire.crypto import keypair_from_uri
from taowire.miner import Miner, RouteContext
from taowire.testing.fake_chain import FakeChain
from taowire.testing.metagraph import FakeMetagraphSource

NETUID = 1
PLENTY = 1_000_000


class Asked(BaseModel):
    """Sixteen floats in."""

    x: list[float]


class Answered(BaseModel):
    """Sixteen floats out."""

    y: list[float]


class Echo(Synapse):  # type: ignore[misc]
    """The same for callers of SDK 10."""

    x: list[float]
    y: list[float] | None = None
    required_hash_fields: ClassVar[tuple[str, ...]] = ("x",)


def miner(port: int, metrics_port: int) -> Miner:
    """The miner //Ferdie, and the validator //Alice registered on its chain."""
    hotkey = keypair_from_uri("//Ferdie")
    settings = MinerSettings(
        netuid=NETUID, wallet_name="bench", wallet_path=Path(tempfile.gettempdir()), external_ip="127.0.0.2",
        allow_private_axons=True, bind_host="127.0.0.1", bind_port=port,
        metrics_bind=HostPort("127.0.0.1", metrics_port), ntp_servers=(), log_level="ERROR", auth_max_age_s=60,
        nonce_retention_s=180, rate_ip_per_s=PLENTY, rate_ip_burst=PLENTY, rate_hotkey_per_s=PLENTY,
        rate_hotkey_burst=PLENTY, legacy_v10_until=dt.date.today() + dt.timedelta(days=30),
    )  # fmt: skip
    chain = FakeChain()
    chain.add_subnet(NETUID)
    chain.register(NETUID, hotkey.ss58_address)
    chain.register(NETUID, keypair_from_uri("//Alice").ss58_address, validator_permit=True, stake_tao=100_000)
    gateway = chain.with_signer(hotkey.ss58_address)
    made = Miner(
        settings, gateway=gateway, metagraph=FakeMetagraphSource(gateway, NETUID), hotkey=hotkey, check_sdk=False
    )

    @made.route("/Echo", request=Asked, response=Answered, legacy_synapse=Echo)  # type: ignore[untyped-decorator]
    async def echo(asked: Asked, context: RouteContext) -> Answered:
        return Answered(y=list(asked.x))

    return made


if __name__ == "__main__":
    miner(int(sys.argv[1]), int(sys.argv[2])).run()
