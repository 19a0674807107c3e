"""Several hotkeys and subnets behind one port: nothing meant for one is ever accepted as another's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bittensor_core import Keypair

from serving.config import MinerSpec, SubnetSpec
from serving.errors import Refusal, UserError
from serving.identity import Identity
from serving.miners import Miner, Miners, Ping, check_miners, routes_of
from serving.state import Neuron, NeuronTable, RouteTable, SlotRoute, write_state
from serving.subnets.base import Task
from serving.traffic.writer import read_records
from serving.types import Hotkey, NetUid, ReleaseId, Seconds, SlotName, UnixSeconds
from serving.wire.keys import public_key
from tests.serving.callers import ALICE, BOB, CHARLIE, MINER, STRANGER, Request, btauth, legacy
from tests.serving.fake_triton import FakeTriton, FakeTritonServer, doubled
from tests.serving.gateways import Box, write_neurons, write_routes
from tests.serving.processes import config_of, gateway
from tests.serving.tiny import Double, Plain

SECOND = Keypair.create_from_uri("//Second")


class Elsewhere(Double):
    """The same path as in the first subnet, for another slot."""

    def parse(self, body: dict[str, Any], now: UnixSeconds) -> Task:
        return super().parse(body, now)._replace(slot=SlotName("elsewhere"))


class Hurried(Plain):
    """One that takes less time than a ping may."""

    max_timeout = Seconds(2.0)


class Alone(Plain):
    """A path that only the second miner has."""

    synapse = "Alone"


def miner(home: Path, pair: Any, *, netuid: int, routes: Sequence[Any], **policy: Any) -> Miner:
    identity = Identity(home / f"neurons-{netuid}.json", **{"stake_threshold": 1000.0, **policy})
    return Miner(
        hotkey=Hotkey(pair.ss58_address), key=public_key(pair.ss58_address), netuid=NetUid(netuid), identity=identity,
        routes={b"/Synapse": Ping(), **{b"/" + route.synapse.encode(): route for route in routes}},
    )  # fmt: skip


@pytest.fixture
def triton() -> FakeTriton:
    return FakeTriton(tiny_a=doubled, elsewhere_a=doubled)


@pytest.fixture
def box(tmp_path: Path, triton: FakeTriton) -> Iterator[Box]:
    """The first miner in subnet 1 with every caller; the second in subnet 2, where Bob and Charlie are validators."""
    table = [Neuron(Hotkey(BOB.ss58_address), 1, 50_000.0, True), Neuron(Hotkey(CHARLIE.ss58_address), 2, 1500.0, True)]
    write_state(tmp_path / "neurons-2.json", NeuronTable(2, time.time(), table))
    routes = {"tiny": "tiny-a", "elsewhere": "elsewhere-a"}
    slots = {SlotName(slot): SlotRoute(stable=ReleaseId(release)) for slot, release in routes.items()}
    write_state(tmp_path / "routes.json", RouteTable(1, time.time(), slots))
    second = miner(tmp_path, SECOND, netuid=2, routes=[Elsewhere(), Alone()], stake_threshold=2000.0)
    made = Box(tmp_path, triton, more_miners=[second])
    yield made
    made.close()


def double(receiver: Any, sender: Any = BOB, **options: Any) -> Request:
    return legacy("Double", {"x": [1.0]}, ("x",), sender=sender, receiver=receiver, **options)


def named(request: Request, receiver: Any) -> Request:
    """The request with another hotkey named as receiver than it was signed for."""
    header = "bt_header_axon_hotkey" if "bt_header_axon_hotkey" in request.headers else "X-Bittensor-Receiver"
    return request.but(**{header: receiver.ss58_address})


@pytest.mark.parametrize("dialect", ["legacy", "btauth"])
async def test_each_request_reaches_the_miner_it_was_signed_for_and_no_other(box: Box, dialect: str) -> None:
    def request(receiver: Any) -> Request:
        if dialect == "legacy":
            return double(receiver)
        return btauth("/Double", {"x": [1.0]}, sender=BOB, receiver=receiver)

    for signed_for, other in ((MINER, SECOND), (SECOND, MINER)):
        made = request(signed_for)
        refused = await box.ask(named(made, other))
        assert (refused.status, refused.message.startswith("the signature does not fit")) == (401, True)
        assert (await box.ask(made)).status == 200
    records = list(read_records(box.home / "traffic"))
    assert [(record.receiver, record.netuid, record.slot) for record in records] == [
        (MINER.ss58_address, 1, "tiny"), (SECOND.ss58_address, 2, "elsewhere"),
    ]  # fmt: skip


async def test_one_nonce_is_accepted_once_by_each_miner(box: Box) -> None:
    nonce = time.time_ns()
    requests = [double(receiver, nonce=nonce) for receiver in (MINER, SECOND)]
    assert [(await box.ask(request)).status for request in requests * 2] == [200, 200, 401, 401]


async def test_who_names_no_receiver_is_the_first_miners_caller(box: Box) -> None:
    unnamed = [double(receiver).but(bt_header_axon_hotkey=None) for receiver in (MINER, SECOND)]
    assert [(await box.ask(request)).status for request in unnamed] == [200, 401]


async def test_a_strangers_receiver_is_refused_before_any_crypto(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> bool:
        raise AssertionError("crypto")

    monkeypatch.setattr("serving.wire.legacy.signed_by", never)
    refused = await box.ask(double(STRANGER))
    assert (refused.status, refused.message) == (401, "the request was not signed for a hotkey of this miner")
    assert box.count("headframe_refusals_total", code="wrong_receiver") == 1


async def test_each_subnet_has_validators_of_its_own_and_each_miner_a_threshold(box: Box) -> None:
    async def codes(sender: Any) -> list[int]:
        return [(await box.ask(double(receiver, sender))).status for receiver in (MINER, SECOND)]

    assert await codes(ALICE) == [200, 403]  # registered in the first subnet alone
    assert await codes(BOB) == [200, 200]
    assert await codes(CHARLIE) == [200, 403]  # 1500 TAO in the second, which wants 2000
    assert box.count("headframe_refusals_total", code="not_registered") == 1
    assert box.count("headframe_refusals_total", code="low_stake") == 1


async def test_a_path_of_another_miner_is_no_path(box: Box) -> None:
    statuses = [
        (await box.ask(legacy(name, {"x": [1.0]}, sender=BOB, receiver=receiver))).status
        for name in ("Alone", "Plain")
        for receiver in (MINER, SECOND)
    ]
    assert statuses == [404, 200, 200, 404]


async def test_a_ping_is_answered_by_both(box: Box) -> None:
    for receiver in (MINER, SECOND):
        reply = await box.ask(legacy("Synapse", {}, sender=BOB, receiver=receiver))
        assert (reply.status, reply.body) == (200, b"{}")


def test_one_miner_alone_is_always_meant(tmp_path: Path) -> None:
    one = Miners([miner(tmp_path, MINER, netuid=1, routes=[Double()])])
    assert one.named(None) is one.named(STRANGER.ss58_address) is one.first
    two = Miners([one.first, miner(tmp_path, SECOND, netuid=2, routes=[Double()])])
    assert two.named(SECOND.ss58_address).netuid == 2
    with pytest.raises(Refusal) as refused:
        two.named(STRANGER.ss58_address)
    assert (refused.value.status, refused.value.code) == (401, "wrong_receiver")


def test_nonces_are_kept_for_two_windows_of_the_widest_route_of_any_miner(tmp_path: Path) -> None:
    one = miner(tmp_path, MINER, netuid=1, routes=[Hurried()])
    two = miner(tmp_path, SECOND, netuid=2, routes=[Double()])
    assert Miners([one, two]).retention_s() == 2 * (20.0 + 4.0 + 4.0)
    assert Miners([one]).retention_s() == 2 * (12.0 + 4.0 + 4.0)  # the ping's


def spec(**options: Any) -> MinerSpec:
    made = MinerSpec(
        hotkey=MINER.ss58_address, netuid=1, neurons="neurons.json", slots=["tiny"],
        subnets=[SubnetSpec("tests.serving.tiny:tiny")],
    )  # fmt: skip
    return msgspec.structs.replace(made, **options)


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        ([], "no miner"),
        ([spec(), spec(netuid=2)], "two miners have the hotkey"),
        ([spec(), spec(hotkey="5GrwvaEF")], "hotkey 5GrwvaEF"),
        ([spec(allow=["15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"])], "allow 15oF4uVJ.*prefix 42"),
        ([spec(deny=["0x" + "00" * 32])], "deny 0x"),
        ([spec(subnets=[SubnetSpec("no.such:thing")])], "no.such:thing"),
    ],
)
def test_miners_that_cannot_be_are_one_clear_line(specs: list[MinerSpec], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        check_miners(specs)
    assert "\n" not in str(refused.value)


def test_each_miner_has_routes_of_its_own() -> None:
    assert set(routes_of(spec())) == {b"/Synapse", b"/Double", b"/Plain"}
    assert routes_of(spec())[b"/Double"] is not routes_of(spec())[b"/Double"]


@pytest.mark.slow
def test_two_miners_in_real_workers(tmp_path: Path) -> None:
    server = FakeTritonServer(tiny_a=doubled)
    second = spec(hotkey=SECOND.ss58_address, netuid=2, neurons=str(tmp_path / "neurons-2.json"))
    first = config_of(tmp_path, server.address).miners[0]
    try:
        write_routes(tmp_path, stable="tiny-a")
        write_neurons(tmp_path)
        write_state(tmp_path / "neurons-2.json", NeuronTable(2, 0.0, [Neuron(Hotkey(BOB.ss58_address), 1, 5e4, True)]))
        with gateway(tmp_path, server.address, miners=[first, second]) as running:
            nonce = time.time_ns()
            requests = [double(receiver, nonce=nonce) for receiver in (MINER, SECOND)]
            assert [running.ask(request).status_code for request in requests * 2] == [200, 200, 401, 401]
            ready = running.get("/readyz").json()
            assert not ready["ready"]
            assert {name: file["fresh"] for name, file in ready["files"].items() if "neurons" in name} == {
                "neurons": True, "neurons-2": False,
            }  # fmt: skip
            assert 'headframe_file_age_seconds{file="neurons-2"}' in running.get("/metrics").text
            (tmp_path / "neurons-2.json").unlink()  # the last table stays in force
            assert running.ask(double(SECOND)).status_code == 200
            assert json.loads((tmp_path / "run" / "last-good" / "neurons-2.json").read_bytes())["netuid"] == 2
    finally:
        server.stop()
