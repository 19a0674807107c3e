"""Captured on the wire of a real gateway before a real Triton, and answered again by `headframe replay`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headframe.cli import build
from infra.ledger import open_ledger
from infra.objects import ObjectStore
from infra.releases import Release, publish
from infra.settings import Settings
from infra.traffic.shipping import ship
from serving.state import Canary, RouteTable, SlotRoute
from serving.subnets.registry import specs
from serving.traffic.segments import segments
from serving.traffic.writer import read_records
from serving.types import SlotName
from tests.infra.bundles import BROKEN, sealed
from tests.servers import TritonServer
from tests.serving.callers import ALICE, BOB, Request, btauth, legacy
from tests.serving.gateways import replace
from tests.serving.processes import Running, gateway, until
from tests.serving.test_real_triton import prompt, write_files

pytestmark = [pytest.mark.slow, pytest.mark.triton]
SLOT = "synth-high"


@pytest.fixture
def home(
    tmp_path: Path, triton_server: TritonServer, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """A home whose Triton and object store are the session's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADFRAME_HOME", str(tmp_path))
    monkeypatch.setenv("HEADFRAME_TRITON_GRPC", triton_server.triton.address)
    monkeypatch.setenv("HEADFRAME_S3__ENDPOINT", objects.endpoint)
    return Settings()


@pytest.fixture
def first(triton_server: TritonServer) -> Iterator[Release]:
    made = sealed(triton_server.models, SLOT)
    triton_server.triton.load(made.id)
    yield made
    triton_server.triton.unload(made.id)


def odd(fields: dict[str, Any]) -> dict[str, Any]:
    """The same request in a caller's own spelling, which a legacy reply gives back."""
    given = fields["simulation_input"]
    return {"simulation_input": {**given, "start_time": given["start_time"].replace("+00:00", "Z")}}


def ask_all(live: Running, numbers: range) -> dict[int, bytes]:
    """Bodies as they came over the wire, by number of paths; a few at once, so that Triton batches them."""

    def request(n: int) -> Request:
        fields = prompt(SLOT, n, ahead=30)
        if n % 3 == 0:
            return btauth("/Simulation", fields, sender=BOB)
        return legacy("Simulation", odd(fields) if n % 3 == 1 else fields, timeout="60", sender=ALICE)

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: live.ask(request(n)), numbers))
    assert [reply.status_code for reply in replies] == [200] * len(numbers)
    return {n: reply.content for n, reply in zip(numbers, replies, strict=True)}


def in_company(live: Running, triton_server: TritonServer, release: Release) -> dict[int, bytes]:
    """The same, until Triton has answered some of them in one batch: an answer must not depend on its company."""
    wire: dict[int, bytes] = {}
    for begin in range(100, 900, 24):
        wire |= ask_all(live, range(begin, begin + 24))
        if max(triton_server.triton.batches(release.id)) > 1:
            return wire
    raise AssertionError("Triton never formed a batch")


def replay(*options: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(build(), ["replay", "--json", *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, json.loads(done.stdout)


def test_the_bytes_of_the_wire_come_back(
    home: Settings, first: Release, triton_server: TritonServer, objects: ObjectStore, tmp_path: Path
) -> None:
    second = sealed(triton_server.models, SLOT, sigma_scale=1.4)
    triton_server.triton.load(second.id)
    write_files(tmp_path, {SLOT: first.id})
    subnets = specs([SLOT], use_stale=True)
    with gateway(tmp_path, triton_server.triton.address, slots=[SLOT], subnets=subnets) as live:
        wire = in_company(live, triton_server, first)
        routed = SlotRoute(stable=second.id, canary=Canary(first.id, 0))
        replace(tmp_path / "routes.json", RouteTable(2, 0.0, {SlotName(SLOT): routed}))  # for every worker
        until(lambda: live.ask(btauth("/Simulation", prompt(SLOT, 1))) and _last(home).release == second.id)
        wire |= ask_all(live, range(900, 906))
    found = {json.loads(each.request)["num_simulations"]: each for each in read_records(home.paths.traffic)}
    assert {found[n].release for n in wire} == {first.id, second.id}
    assert any(found[n].given for n in wire)

    code, report = replay("--limit", "1000")
    assert (code, report["differ"], report["cannot"]) == (0, 0, {})
    assert report["matched"] == len(list(read_records(home.paths.traffic)))

    out = tmp_path / "body"
    for n, body in wire.items():
        if n % 7 == 0:  # all have matched: these prove that the match is of the bytes themselves
            assert replay("--request-id", found[n].request_id, "--out", str(out))[0] == 0
            assert out.read_bytes() == body

    code, report = replay("--release", second.id, "--limit", "1000")
    other = sum(each.release == first.id for each in read_records(home.paths.traffic))
    assert (code, report["differ"]) == (1, other)
    assert {each["why"] for each in report["requests"]} == {"", "tensors"}

    # the box is another one: nothing is left here, and its Triton never had the first release
    ship(home.paths.traffic, objects)
    for path in segments(home.paths.traffic):
        path.unlink()
    triton_server.triton.unload(first.id)
    n = 101
    asked = ("--request-id", found[n].request_id, "--out", str(out))
    code, report = replay(*asked)
    assert (code, report["cannot"]) == (3, {"release gone": 1})
    with closing(open_ledger(home)) as ledger:
        ledger.record_release(
            sha256=first.sha256, id=first.id, slot=first.slot, family="synth_paths", data_digest="", actor="test"
        )
    publish(objects, first)
    code, report = replay(*asked)
    assert (code, report["matched"]) == (0, 1), report
    assert out.read_bytes() == wire[n]
    assert first.id not in triton_server.triton.loaded()  # a throw-away one answered
    triton_server.triton.unload(second.id)


def test_a_model_that_rolls_dice_is_found_out(home: Settings, triton_server: TritonServer, tmp_path: Path) -> None:
    restless = sealed(triton_server.models, SLOT, replace=BROKEN["restless"][:2])
    triton_server.triton.load(restless.id)
    write_files(tmp_path, {SLOT: restless.id})
    with gateway(tmp_path, triton_server.triton.address, slots=[SLOT], subnets=specs([SLOT], use_stale=True)) as live:
        ask_all(live, range(50, 53))
    code, report = replay()
    assert (code, report["matched"], report["differ"]) == (1, 0, 3)
    assert {each["why"] for each in report["requests"]} == {"tensors"}
    done = CliRunner().invoke(build(), ["replay"])
    assert done.exit_code == 1
    assert "0 matched, 3 differ, 0 cannot be answered again" in done.stdout
    triton_server.triton.unload(restless.id)


def _last(home: Settings) -> Any:
    return max(read_records(home.paths.traffic), key=lambda each: each.at)
