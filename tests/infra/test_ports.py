from __future__ import annotations

import socket
from pathlib import Path

import pytest

from infra.ports import choose_ports, endpoints, is_free, read_ports
from infra.settings import Ports, Settings
from serving.errors import UserError


@pytest.fixture
def listener() -> socket.socket:
    found = socket.socket()
    found.bind(("127.0.0.1", 0))
    found.listen()
    return found


def test_every_port_is_picked_kept_and_different(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first = choose_ports(settings)
    assert set(first) == set(Ports.model_fields)
    assert len(set(first.values())) == len(first)
    assert read_ports(settings.paths.ports) == first
    assert choose_ports(settings) == first


def test_picked_ports_lie_below_those_of_outgoing_connections(tmp_path: Path) -> None:
    lent = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not lent.exists():
        pytest.skip("this system does not say which ports it lends")
    low = int(lent.read_text().split()[0])
    if low < 32768:
        pytest.skip("this system lends more ports than Linux does by default")
    assert all(port + 10_000 < low for port in choose_ports(Settings(home=tmp_path)).values())


def test_a_taken_configured_port_is_one_clear_line(tmp_path: Path, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with listener, pytest.raises(UserError, match=f"port {port} for mlflow is taken on 127.0.0.1"):
        choose_ports(Settings(home=tmp_path, ports=Ports(mlflow=port)))


def test_a_remembered_port_that_is_taken_is_picked_again(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    before = choose_ports(settings)
    with socket.socket() as other:
        other.bind(("127.0.0.1", before["prefect"]))
        other.listen()
        after = choose_ports(settings)
    assert after["prefect"] != before["prefect"]
    assert {k: v for k, v in after.items() if k != "prefect"} == {k: v for k, v in before.items() if k != "prefect"}


def test_the_object_stores_second_port_must_be_free_too(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    before = choose_ports(settings)
    with socket.socket() as other:
        other.bind(("127.0.0.1", before["s3"] + 10_000))
        other.listen()
        assert choose_ports(settings)["s3"] != before["s3"]


@pytest.mark.parametrize("port", [-1, 0, 65536, 70000])
def test_what_is_no_port_is_not_free(port: int) -> None:
    assert not is_free(port)


def test_addresses_of_a_home_that_was_never_up(tmp_path: Path) -> None:
    found = endpoints(Settings(home=tmp_path, prefect_url="http://there:4200/api"))
    assert (found.gateway, found.s3, found.prefect) == (None, None, "http://there:4200")


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "nowhere.invalid"])
def test_an_address_of_another_machine_is_told_in_one_line(host: str) -> None:
    with pytest.raises(UserError, match=f"nothing can listen on {host}"):
        is_free(20_000, host)


def test_ipv6_stands_in_brackets(tmp_path: Path) -> None:
    found = endpoints(Settings(home=tmp_path, bind="::1"), {"gateway": 8091, "triton_grpc": 8001})
    assert (found.gateway, found.triton_grpc) == ("http://[::1]:8091", "[::1]:8001")
