from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest

from infra import duties
from infra.chain import ChainDown
from infra.settings import Settings
from infra.triton import Triton
from serving.clock import Clock
from serving.state import Canary, ClockSkew, Neuron, NeuronTable, RouteTable, SlotRoute, write_state
from serving.types import Hotkey, ReleaseId, SlotName
from serving.workers.acks import Ack, folder_of
from tests.infra.bundles import sealed
from tests.infra.time_server import reply, time_server
from tests.servers import TritonServer

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


def table(path: Path) -> NeuronTable:
    return msgspec.json.decode(path.read_bytes(), type=NeuronTable)


def test_local_neurons_are_the_dev_keys_stamped_now(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    duties.neurons(settings).run()
    found = table(settings.paths.neurons)
    assert time.time() - found.written_at < 60
    assert found.netuid == 50
    by_stake = {neuron.stake: neuron.validator_permit for neuron in found.neurons[:4]}
    assert by_stake == {100000.0: True, 50000.0: True, 20000.0: True, 500.0: False}
    assert [n.validator_permit for n in found.neurons[4:]] == [False, False]
    assert len({neuron.hotkey for neuron in found.neurons}) == 6


@pytest.mark.slow
def test_local_neurons_are_who_they_are_said_to_be() -> None:
    from bittensor_core import Keypair

    names = ["//Alice", "//Bob", "//Charlie", "//Dave", "//Eve", Settings().gateway.hotkey_uri]
    hotkeys = [neuron.hotkey for neuron in table(duties.LOCAL_NEURONS).neurons]
    assert hotkeys == [Keypair.create_from_uri(name).ss58_address for name in names]


class Chain:
    def __init__(self) -> None:
        self.down = False

    def neurons(self, netuid: int) -> NeuronTable:
        if self.down:
            raise ChainDown("finney did not answer within 60 s")
        return NeuronTable(netuid, 5.0, [Neuron(Hotkey(ALICE), 7, 1.5, True)])


def test_the_last_good_neurons_stay_while_the_chain_is_down(tmp_path: Path) -> None:
    settings, chain = Settings(home=tmp_path, profile="test", netuid=9), Chain()
    duty = duties.neurons(settings, chain)
    duty.once()
    chain.down = True
    duty.once()
    assert duty.record.error == "finney did not answer within 60 s"
    assert table(settings.paths.neurons) == NeuronTable(9, 5.0, [Neuron(Hotkey(ALICE), 7, 1.5, True)])


def test_each_subnet_has_a_file_of_its_own_and_one_that_fails_holds_up_no_other(tmp_path: Path) -> None:
    miners = [{"netuid": netuid, "slots": ["synth-low"], "wallet_hotkey": "other"} for netuid in (9, 10, 10)]
    settings = Settings.model_validate({"home": tmp_path, "profile": "test", "netuid": 9, "miners": miners})

    class Half(Chain):
        def neurons(self, netuid: int) -> NeuronTable:
            self.down = netuid == 9
            return super().neurons(netuid)

    duty = duties.neurons(settings, Half())
    duty.once()
    assert duty.record.error is not None
    assert [path.name for path in settings.paths.serving.iterdir()] == ["neurons-10.json"]
    duties.neurons(settings, Chain()).once()
    assert [table(path).netuid for path in settings.neuron_files.values()] == [9, 10]
    assert settings.neuron_files[9] == settings.paths.neurons


def test_further_miners_of_a_local_profile_have_the_packaged_neurons(tmp_path: Path) -> None:
    miners = [{"netuid": 32, "slots": ["synth-low"], "hotkey_uri": "//Other"}]
    settings = Settings.model_validate({"home": tmp_path, "miners": miners})
    duties.neurons(settings).run()
    assert [table(path).netuid for path in settings.neuron_files.values()] == [50, 32]
    first, second = (table(path).neurons for path in settings.neuron_files.values())
    assert first == second


def test_the_clocks_skew_is_written_and_silence_too(tmp_path: Path) -> None:
    with time_server(partial(reply, ahead=-1.5)) as server:
        settings = Settings.model_validate({"home": tmp_path, "clock": {"ntp_servers": [server]}})
        duty = duties.clock_skew(settings)
        duty.once()
        assert duty.record.error is None
        found = msgspec.json.decode(settings.paths.skew.read_bytes(), type=ClockSkew)
        assert found.skew_s == pytest.approx(1.5, abs=1e-6)
        assert (found.answered, found.asked) == (1, 1)
    with time_server(partial(reply, stratum=16)) as server:
        settings = Settings.model_validate({"home": tmp_path, "clock": {"ntp_servers": [server]}})
        duty = duties.clock_skew(settings)
        duty.once()
        assert duty.record.error is not None
        assert "no time server answered" in duty.record.error
        assert msgspec.json.decode(settings.paths.skew.read_bytes(), type=ClockSkew).skew_s is None
        assert [duty.name for duty in duties.all_duties(settings)].count("clock") == 1


def test_routes_come_from_the_ledger(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    duty = duties.routes(settings)
    duty.run()
    before = msgspec.json.decode(settings.paths.routes.read_bytes(), type=RouteTable)
    assert (before.generation, before.slots) == (0, {})
    settings.paths.routes.unlink()
    duty.run()
    assert settings.paths.routes.exists()


def test_every_routed_release_is_wanted_the_stable_ones_first(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    assert duties.routed(path) == []
    high = SlotRoute(ReleaseId("h1"), Canary(ReleaseId("h2"), 100), ReleaseId("h3"), ReleaseId("h0"))
    low = SlotRoute(ReleaseId("l1"), fallback=ReleaseId("l1"))
    slots = {SlotName("high"): high, SlotName("low"): low, SlotName("empty"): SlotRoute()}
    write_state(path, RouteTable(1, 0.0, slots))
    assert duties.routed(path) == ["h1", "l1", "h2", "h0", "h3"]


def test_a_missing_triton_is_a_plain_failure(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, triton_grpc="127.0.0.1:9")
    route = SlotRoute(ReleaseId("synth-low-000000000000"))
    write_state(settings.paths.routes, RouteTable(1, 0.0, {SlotName("synth-low"): route}))
    duty = duties.releases(settings)
    duty.once()
    assert duty.record.error == "Triton at 127.0.0.1:9: no answer (is it up?)"
    assert duty.pause() == 0.4  # Triton is back within seconds, and its releases with it


@pytest.mark.slow
@pytest.mark.triton
def test_routed_releases_are_loaded_with_nothing_but_the_local_disk(
    triton_server: TritonServer, tmp_path: Path
) -> None:
    paths = Settings(home=tmp_path).paths
    paths.triton.mkdir()
    paths.models.symlink_to(triton_server.models)
    nowhere = {"endpoint": "http://127.0.0.1:9"}
    settings = Settings.model_validate({"home": tmp_path, "triton_grpc": triton_server.triton.address, "s3": nowhere})
    release = sealed(triton_server.models, sigma_scale=1.5)
    missing = ReleaseId("synth-low-000000000000")
    slots = {SlotName("synth-low"): SlotRoute(missing), SlotName("synth-high"): SlotRoute(release.id)}
    write_state(paths.routes, RouteTable(1, 0.0, slots))
    duty = duties.releases(settings)
    for _ in range(2):
        duty.once()
        assert release.id in triton_server.triton.loaded()
        assert str(duty.record.error).startswith(missing)  # told, and no other release waited for it
        triton_server.triton.unload(release.id)
        until_unloaded(triton_server.triton, release.id)


@pytest.mark.slow
def test_what_a_callers_round_began_with_is_loaded_too(triton_server: TritonServer, tmp_path: Path) -> None:
    paths = Settings(home=tmp_path).paths
    paths.triton.mkdir()
    paths.models.symlink_to(triton_server.models)
    settings = Settings.model_validate({"home": tmp_path, "triton_grpc": triton_server.triton.address})
    release = sealed(triton_server.models, sigma_scale=1.6)
    workers = folder_of(paths.run)
    workers.mkdir(parents=True)
    ack = Ack(pid=1, begun=1, parent=1, beat=time.monotonic(), routes=1, drained=1, held=(release.id,))
    (workers / "1.json").write_bytes(msgspec.json.encode(ack))
    duties.releases(settings).once()
    assert release.id in triton_server.triton.loaded()
    triton_server.triton.unload(release.id)
    until_unloaded(triton_server.triton, release.id)


def until_unloaded(triton: Triton, release: str) -> None:
    end = time.monotonic() + 30
    while release in triton.loaded():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_setting_the_clock_makes_prices_due_and_fast_time_makes_them_frequent(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    duty = duties.prices(settings)
    assert duty.every() == 5.0
    before = duty.changed()
    Clock(settings.paths.clock).set(1_750_000_000.0, rate=5.0)
    assert duty.changed() != before
    assert duty.every() == 1.0
    settings.paths.clock.write_text("garbled")
    assert duty.every() == 5.0


def test_duties_of_a_home(tmp_path: Path) -> None:
    names = [duty.name for duty in duties.all_duties(Settings(home=tmp_path))]
    assert names == ["routes", "neurons", "prices", "releases", "unloading", "watchdog", "traffic"]
    recording = Settings.model_validate({"home": tmp_path, "prices": {"record": True}})
    assert [duty.name for duty in duties.all_duties(recording)] == [*names, "recorder"]
    assert os.listdir(tmp_path) == []


def test_recording_without_a_source_says_what_to_set(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"home": tmp_path, "prices": {"record": True}, "s3": {"endpoint": "http://127.0.0.1:9"}}
    )
    duty = duties.recorder(settings, [])
    duty.once()
    assert duty.record.error == "prices.record is on, and no live source is configured: set prices.pyth"
