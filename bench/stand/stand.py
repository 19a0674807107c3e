"""Starts and watches a gateway under test."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bittensor_core
import psutil
from prometheus_client.parser import text_string_to_metric_families

from serving.config import GatewayConfig, MinerSpec, SubnetSpec, encode
from serving.state import AssetPrices, Neuron, NeuronTable, PriceBook, RouteTable, SlotRoute, write_state
from serving.subnets.registry import specs
from serving.types import Asset, Hotkey, ReleaseId, SlotName

ROOT = Path(__file__).resolve().parents[2]
MINER = "//Ferdie"
VALIDATORS = {"//Alice": 100_000.0, "//Bob": 50_000.0, "//Charlie": 20_000.0}
"""Key URIs and TAO of stake."""
NETUID = 50
SLOTS = ("synth-low", "synth-high")
ASSETS = ("BTC", "ETH")
_RUN = """
import sys
from serving.config import decode
from importlib import import_module
import_module(sys.argv[1]).run(decode(sys.stdin.buffer.read()))
"""


def hotkey(uri: str) -> Hotkey:
    """The ss58 address of a dev key."""
    return Hotkey(bittensor_core.Keypair.create_from_uri(uri).ss58_address)


class Stand:
    """A gateway that serves ``/Echo`` and Synth's ``/Simulation``, for a ``with`` block.

    Budgets are wide open. `config` overrides fields of the GatewayConfig; `slots` names further slots of shipped
    subnets whose routes are to be served without a release; `triton` is a model server that runs already; `runner` is
    a module whose `run` takes the config.
    """

    def __init__(
        self, *, workers: int = 2, slots: tuple[str, ...] = (), triton: str | None = None,
        runner: str = "serving.server", **config: Any,
    ) -> None:  # fmt: skip
        self._folder = tempfile.TemporaryDirectory(prefix="headframe-stand-")
        self.home = Path(self._folder.name)
        self.port, self._private = _free_ports(2)
        self.log = self.home / "gateway.log"
        wide = {"requests_per_s": 1e6, "burst": 10**6, "junk_per_s": 1e6, "junk_burst": 10**6}
        self._options = {"workers": workers, "drain_s": 5.0, **wide, **config}
        self._slots = slots
        self._triton = triton
        self._runner = runner
        self._model: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Stand:
        triton = self._triton or self._start_model()
        self.write_neurons()
        self.write_prices()
        self.write_routes({name: f"{name}-0123456789ab" for name in ("echo", *SLOTS)})
        with self.log.open("wb") as out:
            self._gateway = subprocess.Popen(
                [sys.executable, "-c", _RUN, self._runner], cwd=ROOT, stdin=subprocess.PIPE, stdout=out, stderr=out
            )
        assert self._gateway.stdin is not None
        self._gateway.stdin.write(encode(self._config(triton)))
        self._gateway.stdin.close()
        self._wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self._gateway.send_signal(signal.SIGTERM)
        self._gateway.wait(timeout=30)
        if self._model is not None:
            assert self._model.stdin is not None
            self._model.stdin.close()
            self._model.wait(timeout=10)
        self._folder.cleanup()

    def _start_model(self) -> str:
        command = [sys.executable, "-m", "bench.stand.model"]
        self._model = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._model.stdout is not None
        return f"127.0.0.1:{int(self._model.stdout.readline())}"

    @property
    def pid(self) -> int:
        """The gateway's parent process."""
        return self._gateway.pid

    def _config(self, triton: str) -> GatewayConfig:
        home = self.home
        miner = MinerSpec(
            hotkey=hotkey(MINER), netuid=NETUID, neurons=str(home / "neurons.json"), slots=["echo", *SLOTS],
            subnets=[SubnetSpec("bench.stand.echo:echo"), *specs((*SLOTS, *self._slots), use_stale=True)],
        )  # fmt: skip
        return GatewayConfig(
            miners=[miner], port=self.port, private_port=self._private, triton=triton,
            routes=str(home / "routes.json"), prices=str(home / "prices.json"), traffic=str(home / "traffic"),
            nonces=str(home / "nonces"), run=str(home / "run"), **self._options,
        )  # fmt: skip

    def write_routes(self, stable: Mapping[str, str], generation: int = 1) -> None:
        """Replace routes.json: the one release of each slot."""
        routes = {SlotName(slot): SlotRoute(stable=ReleaseId(release)) for slot, release in stable.items()}
        write_state(self.home / "routes.json", RouteTable(generation, time.time(), routes))

    def write_neurons(self, age_s: float = 0.0) -> None:
        """Replace neurons.json by the validators, written `age_s` seconds ago."""
        known = [Neuron(hotkey(uri), uid, stake, True) for uid, (uri, stake) in enumerate(VALIDATORS.items())]
        write_state(self.home / "neurons.json", NeuronTable(NETUID, time.time() - age_s, known))

    def write_prices(self) -> None:
        """Replace prices.json by fresh prices."""
        now = time.time()
        known = AssetPrices(60_000.0, int(now) - 60, "stand", simulated=True, proxy=False, history={})
        write_state(self.home / "prices.json", PriceBook(now, now, dict.fromkeys(map(Asset, ASSETS), known)))

    def _wait(self) -> None:
        """Until every worker said that it is ready."""
        end = time.monotonic() + 30
        while self.log.read_bytes().count(b'"worker ready"') < self._options["workers"]:
            if self._gateway.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the gateway did not start:\n" + self.log.read_text())
            time.sleep(0.05)

    def get(self, path: str) -> bytes:
        """A page of the private port, whatever its status."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._private}{path}", timeout=10) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            return error.read()

    def restarts(self) -> int:
        """Workers that were started again."""
        return int(json.loads(self.get("/workers"))["restarts"])

    def processes(self) -> list[psutil.Process]:
        """The gateway's parent and its workers."""
        parent = psutil.Process(self._gateway.pid)
        return [parent, *parent.children(recursive=True)]

    def memory(self) -> tuple[int, int]:
        """Bytes of the gateway's processes, shared pages counted once: their own, and those of files they map.

        The replay store is a mapped file; it holds what its window holds, and is not a process's to give back.
        """
        own = mapped = 0
        for process in self.processes():
            facts = Path(f"/proc/{process.pid}/smaps_rollup").read_text().split("\n")
            kilobytes = {line.partition(":")[0]: int(line.split()[1]) for line in facts[1:] if line}
            own += kilobytes["Pss_Anon"] * 1024
            mapped += kilobytes["Pss_File"] * 1024
        return own, mapped

    def open_files(self) -> int:
        """Open file descriptors of the gateway's processes."""
        return sum(len(os.listdir(f"/proc/{process.pid}/fd")) for process in self.processes())

    def refusals(self) -> dict[tuple[str, str], int]:
        """How often each (status, code) was answered so far."""
        families = text_string_to_metric_families(self.get("/metrics").decode())
        return {
            (sample.labels["status"], sample.labels["code"]): int(sample.value)
            for family in families
            for sample in family.samples
            if sample.name == "headframe_refusals_total"
        }


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in held]
    finally:
        for each in held:
            each.close()
