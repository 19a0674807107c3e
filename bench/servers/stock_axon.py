"""The stock Axon of bittensor 10.5.0 with trivial forwards; run by the interpreter of ``bench/axon.lock``.

``stock_axon.py PORT`` serves until it is ended. ``stock_axon.py --templates`` prints what the stock Dendrite would
send: for each synapse its headers and its body, signed once, for the load client to sign anew. The Axon wants
annotations that are classes, so there is no ``from __future__ import annotations`` here.
"""

import json
import sys
import time
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

ARGUMENTS, sys.argv[1:] = sys.argv[1:], []  # bittensor reads the command line too
import bittensor as bt  # noqa: E402
from bittensor.core.axon import Axon  # noqa: E402
from bittensor.core.dendrite import Dendrite  # noqa: E402
from bittensor.utils import networking  # noqa: E402

MINER = bt.Keypair.create_from_uri("//Ferdie")
CALLER = bt.Keypair.create_from_uri("//Alice")


class Echo(bt.Synapse):  # type: ignore[misc]
    """Sixteen floats in, sixteen out."""

    x: list[float]
    y: list[float] | None = None
    required_hash_fields: ClassVar[tuple[str, ...]] = ("x",)


class Simulation(bt.Synapse):  # type: ignore[misc]
    """A Synth prompt in, a start, an increment and price paths out."""

    simulation_input: dict[str, Any]
    simulation_output: list[Any] | None = None


PATHS = 60_000 * np.exp(np.cumsum(np.random.default_rng(0).standard_normal((1000, 289)) * 0.0015, axis=1))


async def echo(synapse: Echo) -> Echo:
    """The trivial handler."""
    synapse.y = list(synapse.x)
    return synapse


async def simulate(synapse: Simulation) -> Simulation:
    """What the reference miner does with its paths once numpy has them: round, make lists, hand over."""
    synapse.simulation_output = [0, synapse.simulation_input["time_increment"], *np.round(PATHS, 3).tolist()]
    return synapse


def templates() -> dict[str, Any]:
    """Headers and body of each synapse as the Dendrite makes them."""
    networking.get_external_ip = lambda: "127.0.0.1"  # it would ask the internet
    dendrite = Dendrite(wallet=CALLER)
    target = bt.AxonInfo(
        version=1, ip="127.0.0.1", port=8091, ip_type=4, hotkey=MINER.ss58_address, coldkey=MINER.ss58_address
    )
    asked = {
        "asset": "BTC", "start_time": "2026-01-01T00:00:00+00:00", "time_increment": 300, "time_length": 86400,
        "num_simulations": 1000,
    }  # fmt: skip
    made = {}
    for synapse in (Echo(x=[n + 0.5 for n in range(16)]), Simulation(simulation_input=asked)):
        ready = dendrite.preprocess_synapse_for_request(target, synapse, timeout=12.0)
        made[ready.name] = {"headers": ready.to_headers(), "body": json.dumps(ready.model_dump())}
    return made


def serve(port: int) -> None:
    """Answer on the loopback until the process is ended."""
    axon = Axon(wallet=SimpleNamespace(hotkey=MINER), ip="127.0.0.1", port=port, external_ip="127.0.0.1")
    axon.fast_config.host = "127.0.0.1"
    axon.attach(forward_fn=echo).attach(forward_fn=simulate)
    axon.start()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    if ARGUMENTS == ["--templates"]:
        print(json.dumps(templates()))
    else:
        serve(int(ARGUMENTS[0]))
