"""Synth prompts through a real gateway and a real tritonserver, in both dialects, and what a kill of Triton costs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from infra.releases import Release, seal
from infra.settings import Settings
from infra.stack.commands import tritonserver
from infra.triton import Triton
from serving.call import answer_digest
from serving.config import SubnetSpec
from serving.state import AssetPrices, PriceBook, RouteTable, SlotRoute, write_state
from serving.subnets.registry import specs
from serving.subnets.synth.protocol import synth
from serving.subnets.synth.validity import CORRECT, validity
from serving.traffic.writer import read_records
from serving.triton import unpack
from serving.types import Asset, ReleaseId, SlotName, UnixSeconds
from tests.faults.tools import refused
from tests.ports import free_port
from tests.servers import TritonServer, running
from tests.serving.callers import ALICE, BOB, btauth, legacy
from tests.serving.gateways import write_neurons
from tests.serving.processes import Running, gateway, stop_still, until
from triton_models.synth_paths.release import export
from triton_models.synth_paths.train import fit

pytestmark = [pytest.mark.slow, pytest.mark.triton]
SLOTS = {"synth-high": (60, 3600), "synth-low": (300, 86400)}


def sealed(models: Path, slot: str) -> Release:
    """A Gaussian release for a slot, in the folder that Triton takes releases from."""
    export(fit(slot, "gaussian", {}), models / ".making")
    return seal(models / ".making", slot=slot, family="synth_paths", data_digest="", rebuild={})


def write_files(home: Path, stable: dict[str, str]) -> None:
    """Everything the gateway reads, for BTC at 65,432.1."""
    now = time.time()
    routes = {SlotName(slot): SlotRoute(stable=ReleaseId(release)) for slot, release in stable.items()}
    write_state(home / "routes.json", RouteTable(1, now, routes))
    price = AssetPrices(65_432.1, int(now), "test", simulated=True, proxy=False, history={})
    write_state(home / "prices.json", PriceBook(now, now, {Asset("BTC"): price}))
    write_neurons(home)


def prompt(slot: str, n: int, ahead: int = 2) -> dict[str, Any]:
    """A prompt as a validator words it, for a start in `ahead` minutes."""
    increment, length = SLOTS[slot]
    start = int(time.time()) // 60 * 60 + 60 * ahead
    return {
        "simulation_input": {
            "asset": "BTC", "start_time": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(start)),
            "time_increment": increment, "time_length": length, "num_simulations": n,
        }
    }  # fmt: skip


def verdict(fields: dict[str, Any], answer: Any) -> str:
    """What the validator says of an answer as it came over the wire."""
    (route,) = synth(use_stale=True).routes
    task = route.parse(fields, UnixSeconds(time.time()))
    return validity(task.request, "0.1", answer)


@pytest.fixture(scope="module")
def releases(triton_server: TritonServer) -> dict[str, str]:
    made: dict[str, str] = {slot: sealed(triton_server.models, slot).id for slot in SLOTS}
    for release in made.values():
        triton_server.triton.load(release)
    return made


@pytest.fixture(scope="module")
def live(
    triton_server: TritonServer, releases: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("gateway")
    write_files(home, releases)
    with gateway(
        home, triton_server.triton.address, slots=list(SLOTS), subnets=specs(list(SLOTS), use_stale=True)
    ) as made:
        yield made


@pytest.mark.parametrize("slot", SLOTS)
def test_both_prompts_are_answered_validly_in_both_dialects(live: Running, slot: str) -> None:
    increment, length = SLOTS[slot]
    fields = prompt(slot, 1000)
    replies = [
        live.ask(legacy("Simulation", fields, timeout="60")),
        live.ask(btauth("/Simulation", fields, sender=BOB)),
    ]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json()["simulation_input"] == fields["simulation_input"]
    assert list(replies[1].json()) == ["simulation_output"]
    answers = [reply.json()["simulation_output"] for reply in replies]
    assert answers[0] == answers[1]  # neither caller nor dialect is in the seed
    assert verdict(fields, answers[0]) == CORRECT
    paths = np.array(answers[0][2:])
    assert paths.shape == (1000, length // increment + 1)
    np.testing.assert_allclose(paths[:, 0], 65_432.1, rtol=1e-6)
    until(lambda: live.get("/readyz").json()["slots"][slot]["ready"])  # Triton has a second to say so


def test_the_record_is_enough_to_answer_again_byte_for_byte(
    live: Running, triton_server: TritonServer, releases: dict[str, str]
) -> None:
    fields = prompt("synth-high", 17, ahead=3)
    assert live.ask(legacy("Simulation", fields, timeout="60")).status_code == 200
    record = max(read_records(Path(live.config.traffic)), key=lambda each: each.at)
    tensors = {name: unpack(put.dtype, tuple(put.shape), put.data) for name, put in record.tensors.items()}
    assert record.release == releases["synth-high"]
    assert int(tensors["SEED"].reshape(-1)[0]) == record.seed
    outputs = triton_server.triton.infer(record.release, tensors)
    outputs.pop("RELEASE", None)
    assert answer_digest(outputs) == record.answer_digest


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"asset": "DOGE"}, 400),
        ({"start_time": "2020-01-01T00:00:00+00:00"}, 400),
        ({"start_time": "2030-01-01T00:00:00"}, 400),
        ({"num_simulations": 0}, 400),
        ({"num_simulations": 10_000_000}, 400),
        ({"time_increment": 61}, 400),
        ({"asset": "ETH"}, 503),  # there is no price of it
    ],
)
def test_bad_prompts_get_a_clear_line(live: Running, change: dict[str, Any], status: int) -> None:
    fields = prompt("synth-high", 10)
    fields["simulation_input"].update(change)
    reply = live.ask(btauth("/Simulation", fields))
    assert reply.status_code == status
    assert len(reply.json()["message"]) > 10


class Own:
    """A Triton of the test's own, to kill and to stop, with one release."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, folder / "models"
        self.models.mkdir()
        self.ports = [free_port() for _ in range(3)]
        self.address = f"127.0.0.1:{self.ports[0]}"
        self.release = sealed(self.models, "synth-high").id

    def started(self, name: str) -> AbstractContextManager[int]:
        """Start it; gives its pid."""
        grpc, http, metrics = self.ports
        command = tritonserver(
            Settings().venv_triton, self.folder, self.models, server_id=name, grpc=grpc, http=http, metrics=metrics
        )
        return running(command, self.folder / f"{name}.log", Triton(self.address).ready)

    def load(self) -> None:
        control = Triton(self.address)
        control.load(self.release)
        control.close()

    def behind(self) -> AbstractContextManager[Running]:
        """A gateway in front of it."""
        write_files(self.folder, {"synth-high": self.release})
        return gateway(
            self.folder, self.address, slots=["synth-high"], subnets=specs(["synth-high"], use_stale=True), drain_s=5.0,
            workers=1,
        )  # fmt: skip


def test_a_killed_and_restarted_triton_loses_no_request_whose_deadline_allows(tmp_path: Path) -> None:
    own = Own(tmp_path)
    with own.behind() as live:
        fields = prompt("synth-high", 100, ahead=3)
        with own.started("first") as pid:
            own.load()
            assert live.ask(legacy("Simulation", fields, timeout="60", sender=ALICE)).status_code == 200
            os.kill(pid, signal.SIGKILL)
            until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(live.ask, legacy("Simulation", fields, timeout="60", sender=BOB)) for _ in range(4)]
            until(lambda: "headframe_in_flight 4.0" in live.get("/metrics").text)
            assert not any(each.done() for each in asked)
            with own.started("second"):
                own.load()
                assert [each.result().status_code for each in asked] == [200] * 4
        bodies = {json.dumps(each.result().json()["simulation_output"]) for each in asked}
        assert len(bodies) == 1


def test_newcomers_to_a_stopped_triton_are_refused_in_seconds_and_who_waits_is_answered_when_it_goes_on(
    tmp_path: Path,
) -> None:
    own = Own(tmp_path)
    with own.behind() as live, own.started("only") as pid, ThreadPoolExecutor(8) as pool:
        own.load()

        def ask(timeout: str = "60") -> int:
            return live.ask(legacy("Simulation", prompt("synth-high", 1000, ahead=3), timeout=timeout)).status_code

        busy = [pool.submit(ask) for _ in range(40)]  # a Triton with all it can do still says that it lives
        assert [each.result() for each in busy] == [200] * 40
        try:
            stop_still(pid)
            waits = pool.submit(ask)
            until(lambda: ask("0.5") == 503 and refused(live, "breaker_open"))
            assert not waits.done()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert waits.result() == 200
        until(lambda: ask() == 200)


def test_a_subnet_is_described_by_its_factory() -> None:
    assert specs(["synth-high", "synth-low"], use_stale=True) == [
        SubnetSpec("serving.subnets.synth.protocol:synth", {"use_stale": True})
    ]
