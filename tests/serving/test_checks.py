"""Every setting that a gateway cannot run with is refused in one line, before anything starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.checks import check
from serving.config import GatewayConfig, MinerSpec, SubnetSpec
from serving.errors import UserError
from tests.serving.callers import ALICE
from tests.serving.processes import config_of

NAN, INF = float("nan"), float("inf")
BAD: dict[str, list[Any]] = {
    "port": [0, -1, 65536],
    "private_port": [0, -1, 65536],
    "bind": ["", "localhots", "127.0.0.1:80", "::1::"],
    "private_bind": ["", "all", "256.0.0.1"],
    "workers": [0, -2, 65],
    "triton": ["", "here", "here:", ":8001", "here:port", "here:0", "here:99999"],
    "redis": ["localhost", "http://localhost:6379"],
    "requests_per_s": [0.0, -1.0, NAN, INF],
    "burst": [0, -5],
    "trusted_proxies": [["10.0.0.0/33"], ["proxy"], ["10.0.0.0/8", ""]],
    "junk_per_s": [0.0, -1.0, NAN],
    "junk_burst": [0, -1],
    "connections_per_address": [0, -1],
    "connections": [0, -1],
    "in_flight": [0, -1],
    "waiting": [-1],
    "shadows": [-1],
    "max_skew": [0.0, -1.0, NAN],
    "routes_max_age": [0.0, -1.0, NAN, INF],
    "neurons_max_age": [0.0, -1.0, NAN],
    "prices_max_age": [0.0, -1.0, NAN],
    "traffic_disk_cap": [-1],
    "traffic_keep_s": [0.0, -1.0, NAN],
    "schemes": [{"5nonsense": "sr25519"}, {ALICE.ss58_address: "rsa"}],
    "monotonic_routes": [["NoSuchRoute"], ["Synapse"]],
    "drain_s": [-1.0, NAN, INF],
    "idle_grace_s": [-1.0, NAN],
    "linger_s": [-1.0, NAN],
}
"""By field, what it must refuse."""
BAD_OF_A_MINER: dict[str, list[Any]] = {
    "hotkey": ["", "5nonsense", "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"],
    "allow": [["5nonsense"]],
    "deny": [["15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"]],
    "stake_threshold": [-1.0, NAN, INF],
    "subnets": [
        [SubnetSpec("tests.serving.tiny:nothing")], [SubnetSpec("no.such.module:x")],
        [SubnetSpec("tests.serving.tiny:tiny", {"unknown": 1})],
    ],
}  # fmt: skip
_FILES = {"routes", "prices", "traffic", "nonces", "run", "neurons"}
_ANYTHING_GOES = {"miners", "pause", "clock", "skew", "traffic_ship", "traffic_bodies", "epistula", "netuid", "slots"}


def refused(config: GatewayConfig) -> str:
    with pytest.raises(UserError) as caught:
        check(config)
    assert caught.value.exit_code in (1, 2)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_bad(home: Path, name: str, value: Any) -> GatewayConfig:
    good = config_of(home, "127.0.0.1:8001")
    if name in GatewayConfig.__struct_fields__:
        return msgspec.structs.replace(good, **{name: value})
    return msgspec.structs.replace(good, miners=[msgspec.structs.replace(good.miners[0], **{name: value})])


def test_a_good_one_passes_and_leaves_no_trace(tmp_path: Path) -> None:
    check(config_of(tmp_path, "127.0.0.1:8001"))
    check(config_of(tmp_path, "triton:8001", bind="::", private_bind="0.0.0.0", waiting=0, shadows=0, drain_s=0.0))
    assert os.listdir(tmp_path) == []


def test_every_field_is_looked_at() -> None:
    fields = {*GatewayConfig.__struct_fields__, *MinerSpec.__struct_fields__}
    assert fields == {*BAD, *BAD_OF_A_MINER, *_FILES, *_ANYTHING_GOES}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for bad in (BAD, BAD_OF_A_MINER) for name in bad for value in bad[name]]
)
def test_what_no_gateway_can_run_with_is_refused_by_name(tmp_path: Path, name: str, value: Any) -> None:
    said = refused(with_bad(tmp_path, name, value))
    if name not in ("subnets", "triton", "redis"):
        assert name.removesuffix("_s") in said
    assert os.listdir(tmp_path) == []


def test_two_ports_are_two(tmp_path: Path) -> None:
    good = config_of(tmp_path, "127.0.0.1:8001")
    said = refused(msgspec.structs.replace(good, private_port=good.port))
    assert said == f"gateway: the public and the private port are both {good.port}; each needs its own"


def test_no_miner_and_twins_are_refused(tmp_path: Path) -> None:
    good = config_of(tmp_path, "127.0.0.1:8001")
    assert "no miner" in refused(msgspec.structs.replace(good, miners=[]))
    assert "two miners" in refused(msgspec.structs.replace(good, miners=good.miners * 2))


@pytest.mark.parametrize("name", ["traffic", "nonces", "run"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    said = refused(config_of(tmp_path, "127.0.0.1:8001", **{name: str(tmp_path / "file" / "below")}))
    assert (name in said, "is not a folder" in said) == (True, True)


@pytest.mark.parametrize("name", ["traffic", "nonces", "run"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    said = refused(config_of(tmp_path, "127.0.0.1:8001", **{name: "/proc/self/below"}))  # not even for root
    assert (name in said, "cannot be written" in said) == (True, True)


@pytest.mark.parametrize("name", ["routes", "prices", "neurons"])
def test_a_file_whose_folder_is_missing_is_named(tmp_path: Path, name: str) -> None:
    said = refused(config_of(tmp_path, "127.0.0.1:8001", **{name: str(tmp_path / "nowhere" / f"{name}.json")}))
    assert (name in said, "its folder is missing" in said) == (True, True)
    (tmp_path / f"{name}.json").mkdir()
    refused(config_of(tmp_path, "127.0.0.1:8001", **{name: str(tmp_path / f"{name}.json")}))
