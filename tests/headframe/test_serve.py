"""What ``headframe serve`` tells the gateway, from the settings and public key material alone."""

from __future__ import annotations

import json
import re
import socket
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bittensor_core import Keypair
from pydantic import ValidationError
from typer.testing import CliRunner

from headframe.cli import build, main
from headframe.miners import identities
from headframe.serve import check_clock, gateway_config, vet
from infra.settings import Gateway, Ports, Settings
from serving.config import decode, encode
from serving.errors import UserError
from serving.server import check
from tests.infra.time_server import reply, time_server

CHARLIE = Keypair.create_from_uri("//Charlie").ss58_address
PORTS = Ports(gateway=18091, private=18092)


def test_a_local_profile_serves_its_slots_as_the_dev_key_on_recorded_time(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ports=PORTS, triton_grpc="127.0.0.1:18001")
    config = gateway_config(settings, workers=3)
    settings.paths.serving.mkdir(parents=True)
    check(config)
    assert (config.port, config.private_port, config.workers) == (18091, 18092, 3)
    (miner,) = config.miners
    assert miner.slots == ["synth-high", "synth-low"]
    assert [spec.options["use_stale"] for spec in miner.subnets] == [True]
    assert miner.hotkey == Keypair.create_from_uri("//Ferdie").ss58_address
    assert config.clock == str(tmp_path / "clock.json")
    assert decode(encode(config)) == config
    assert list(tmp_path.iterdir()) == [settings.paths.serving]


def test_a_real_network_has_wall_time_and_no_stale_prices(tmp_path: Path) -> None:
    wallet(tmp_path)
    settings = real(tmp_path)
    config = gateway_config(settings)
    settings.paths.serving.mkdir(parents=True)
    check(config)
    assert config.clock is None
    assert config.bind == "0.0.0.0"
    assert config.private_bind == "127.0.0.1"
    (miner,) = config.miners
    assert [spec.options["use_stale"] for spec in miner.subnets] == [False]
    assert miner.hotkey == Keypair.create_from_uri("//Alice").ss58_address


def real(folder: Path) -> Settings:
    return Settings(
        profile="finney", home=folder / "home", bind="0.0.0.0", ports=PORTS, triton_grpc="127.0.0.1:18001",
        gateway=Gateway(wallet_path=folder, wallet_name="miner", wallet_hotkey="hot"),
    )  # fmt: skip


def wallet(folder: Path) -> Path:
    """A wallet of which only the hotkey's public file may be read."""
    keys = folder / "miner" / "hotkeys"
    keys.mkdir(parents=True)
    public = keys / "hotpub.txt"
    public.write_text(json.dumps({"ss58Address": Keypair.create_from_uri("//Alice").ss58_address}))
    (keys / "hot").mkdir()  # opening it as a file would fail
    (folder / "miner" / "coldkey").mkdir()
    return public


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '"5G"'])
def test_a_missing_or_broken_public_file_is_one_clear_line(tmp_path: Path, content: str | None) -> None:
    public = wallet(tmp_path)
    public.unlink()
    if content is not None:
        public.write_text(content)
    with pytest.raises(UserError, match="regen-hotkeypub") as refused:
        identities(real(tmp_path))
    assert "\n" not in str(refused.value)


def test_what_is_not_chosen_yet_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="port gateway is not chosen"):
        gateway_config(Settings(home=tmp_path, triton_grpc="127.0.0.1:1"))
    with pytest.raises(UserError, match="Triton has no address"):
        gateway_config(Settings(home=tmp_path, ports=PORTS))
    with pytest.raises(UserError, match="no subnet serves 'chess-blitz'"):
        gateway_config(Settings(home=tmp_path, ports=PORTS, triton_grpc="127.0.0.1:1", slots=("chess-blitz",)))


def test_a_config_with_a_broken_hotkey_does_not_start(tmp_path: Path) -> None:
    config = gateway_config(Settings(home=tmp_path, ports=PORTS, triton_grpc="127.0.0.1:1"))
    with pytest.raises(UserError, match="hotkey 5GrwvaEF"):
        check(msgspec.structs.replace(config, miners=[msgspec.structs.replace(config.miners[0], hotkey="5GrwvaEF")]))


def test_further_miners_take_over_what_they_do_not_say(tmp_path: Path) -> None:
    public = wallet(tmp_path)
    other = public.with_name("otherpub.txt")
    other.write_text(json.dumps({"ss58Address": Keypair.create_from_uri("//Bob").ss58_address}))
    told = {
        "profile": "finney", "home": tmp_path / "home", "ports": PORTS, "triton_grpc": "127.0.0.1:1",
        "gateway": {"wallet_path": tmp_path, "wallet_name": "miner", "wallet_hotkey": "hot", "stake_threshold": 7.0,
                    "deny": [CHARLIE]},
        "miners": [{"netuid": 32, "slots": ["synth-low"], "wallet_hotkey": "other", "stake_threshold": 0.0,
                    "allow": [CHARLIE]}],
    }  # fmt: skip
    files = tmp_path / "home" / "serving"
    files.mkdir(parents=True)
    config = gateway_config(Settings.model_validate(told))
    check(config)
    first, second = config.miners
    assert (first.netuid, first.neurons, first.stake_threshold) == (50, str(files / "neurons.json"), 7.0)
    assert second.hotkey == Keypair.create_from_uri("//Bob").ss58_address
    assert (second.netuid, second.slots, second.stake_threshold) == (32, ["synth-low"], 0.0)
    assert second.neurons == str(files / "neurons-32.json")
    assert (second.allow, second.deny, first.allow) == ([CHARLIE], [CHARLIE], [])
    told["miners"] = [{"netuid": 32, "slots": ["synth-low"]}]
    with pytest.raises(UserError, match="two miners have the hotkey"):
        check(gateway_config(Settings.model_validate(told)))


def test_a_further_miner_in_local_needs_a_dev_key(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="needs a hotkey_uri"):
        Settings.model_validate({"home": tmp_path, "miners": [{"netuid": 50, "slots": ["synth-low"]}]})
    miner = {"netuid": 50, "slots": ["chess"], "hotkey_uri": "//Other"}
    told = {"home": tmp_path, "ports": PORTS, "triton_grpc": "127.0.0.1:1", "miners": [miner]}
    with pytest.raises(UserError, match="no subnet serves 'chess'"):
        gateway_config(Settings.model_validate(told))


@pytest.mark.parametrize(("ahead", "way"), [(-3600.0, "ahead"), (30.0, "behind")])
def test_a_clock_that_is_off_does_not_start_and_says_which_way(tmp_path: Path, ahead: float, way: str) -> None:
    with time_server(partial(reply, ahead=ahead)) as server:
        told = {"home": tmp_path, "clock": {"ntp_servers": [server, server, server]}}
        with pytest.raises(UserError, match=rf"clock is [0-9.]+ s {way}, by 3 of 3.*set it") as refused:
            check_clock(Settings.model_validate(told))
    assert "\n" not in str(refused.value)


def test_a_good_clock_starts_in_silence_and_an_unchecked_one_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with time_server(partial(reply, ahead=1.0)) as good, time_server(partial(reply, ahead=600.0)) as liar:
        check_clock(Settings.model_validate({"home": tmp_path, "clock": {"ntp_servers": [good, liar, good]}}))
    check_clock(Settings(home=tmp_path))  # profile local asks nobody by itself
    assert capsys.readouterr().err == ""
    with time_server(partial(reply, stratum=0, reference=b"DENY")) as busy:
        check_clock(Settings.model_validate({"home": tmp_path, "clock": {"ntp_servers": [busy]}}))
    assert "could not be checked" in capsys.readouterr().err


def test_only_real_networks_ask_public_time_servers(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).ntp_servers == ()
    assert len(real(tmp_path).ntp_servers) == 3
    silent = Settings.model_validate({"home": tmp_path, "profile": "finney", "clock": {"ntp_servers": []}})
    assert silent.ntp_servers == ()


def test_the_help_has_an_example() -> None:
    shown = CliRunner().invoke(build(), ["serve", "--help"])
    assert shown.exit_code == 0
    assert "Example: headframe serve" in shown.output


GOOD = {
    "HEADFRAME_PORTS__GATEWAY": "18091",
    "HEADFRAME_PORTS__PRIVATE": "18092",
    "HEADFRAME_TRITON_GRPC": "127.0.0.1:18001",
}


@pytest.mark.parametrize(
    "case",
    [
        ("GATEWAY__WORKERS", "0", "gateway.workers"),
        ("GATEWAY__WORKERS", "many", "gateway.workers"),
        ("GATEWAY__STAKE_THRESHOLD", "-1", "gateway.stake_threshold"),
        ("GATEWAY__STAKE_THRESHOLD", "nan", "gateway.stake_threshold"),
        ("GATEWAY__REQUESTS_PER_S", "0", "gateway.requests_per_s"),
        ("GATEWAY__REQUESTS_PER_S", "inf", "gateway.requests_per_s"),
        ("GATEWAY__BURST", "-1", "gateway.burst"),
        ("GATEWAY__PRICE_MAX_AGE", "0", "gateway.price_max_age"),
        ("GATEWAY__PRIVATE_BIND", "0.0.0.0", "loopback"),
        ("GATEWAY__ALLOW", '["5nonsense"]', "allow 5nonsense"),
        ("GATEWAY__DENY", '["5nonsense"]', "deny 5nonsense"),
        ("GATEWAY__TRUSTED_PROXIES", '["nonsense"]', "trusted_proxies"),
        ("GATEWAY__NO_SUCH", "1", "gateway.no_such"),
        ("GATEWAY__HOTKEY_URI", "no uri", "hotkey_uri"),
        ("TRAFFIC__DISK_CAP", "-1", "traffic.disk_cap"),
        ("TRAFFIC__KEEP_DAYS", "0", "traffic.keep_days"),
        ("TRITON_GRPC", "nowhere", "host:port"),
        ("BIND", "10.0.0.1", "loopback"),
        ("PORTS__GATEWAY", "70000", "ports.gateway"),
        ("PORTS__GATEWAY", "18092", "both 18092"),
        ("SLOTS", '["no-such-slot"]', "no-such-slot"),
        ("HOME", "/proc/self/home", "folder"),
        ("PROFILE", "mainnet", "profile"),
    ],
)
def test_a_setting_that_cannot_work_is_one_line_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: tuple[str, str, str]
) -> None:
    name, value, said = case
    monkeypatch.setattr("sys.argv", ["headframe", "serve"])
    for each, text in {**GOOD, "HEADFRAME_HOME": str(tmp_path), f"HEADFRAME_{name}": value}.items():
        monkeypatch.setenv(each, text)
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code in (1, 2)
    assert (out, len(err.splitlines())) == ("", 1)
    assert said in err


@pytest.mark.parametrize(
    ("held", "said"), [("file", "holds no socket"), ("deaf", "does not listen"), ("other", "the settings say 18091")]
)
def test_a_descriptor_that_is_no_listening_socket_of_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], held: str, said: str
) -> None:
    with (tmp_path / "file").open("wb") as file, socket.socket() as deaf, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        fd = {"file": file.fileno(), "deaf": deaf.fileno(), "other": other.fileno()}[held]
        monkeypatch.setattr("sys.argv", ["headframe", "serve", "--listen-fd", str(fd)])
        for each, text in {**GOOD, "HEADFRAME_HOME": str(tmp_path)}.items():
            monkeypatch.setenv(each, text)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"gateway": Gateway(trusted_proxies=("10.0.0.0/33",))}, "trusted_proxies"),
        ({"gateway": Gateway(allow=("5abc",))}, "allow 5abc: the hotkey is not an ss58 address"),
        ({"gateway": Gateway(monotonic_routes=("Nope",))}, "monotonic_routes names 'Nope'"),
        ({"gateway": Gateway(hotkey_uri="??")}, "hotkey_uri is not a key's URI"),
        ({"gateway": Gateway(redis_url="nonsense")}, "redis_url"),
        ({"slots": ("nope",)}, "no subnet serves 'nope'"),
        ({"bind": "localhost", "triton_grpc": "nowhere"}, "is not host:port"),
    ],
)
def test_what_no_gateway_could_start_on_is_told_before_a_port_is_chosen(
    tmp_path: Path, said: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        vet(Settings(home=tmp_path, **said))
    assert list(tmp_path.iterdir()) == []


def test_good_settings_pass_before_a_port_is_chosen(tmp_path: Path) -> None:
    vet(Settings(home=tmp_path))
    assert list(tmp_path.iterdir()) == []
