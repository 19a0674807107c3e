"""Where requests come from."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import UserError
from serving.public.origins import MAX_HOPS, NOWHERE, Address, Origins, address_of, networks

V4 = Address(bytes([203, 0, 113, 9]))
OURS = Origins(["10.0.0.0/8", "2001:db8:1::/48", "192.168.7.7"])


def behind(host: str, *values: bytes) -> Address:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", value) for value in values)]
    return OURS.behind(OURS.peer(host), headers)


@pytest.mark.parametrize(
    ("host", "values", "found"),
    [
        ("203.0.113.9", (), V4),
        ("203.0.113.9", (b"198.51.100.1",), V4),  # a stranger's word for it
        ("10.1.2.3", (b"203.0.113.9",), V4),
        ("192.168.7.7", (b"203.0.113.9",), V4),
        ("10.1.2.3", (b"198.51.100.1, 203.0.113.9",), V4),  # what the caller itself put first
        ("10.1.2.3", (b"198.51.100.1", b"203.0.113.9"), V4),  # two fields are one list
        ("10.1.2.3", (b"198.51.100.1, 203.0.113.9, 10.9.9.9",), V4),  # through two of our proxies
        ("10.1.2.3", (b"203.0.113.9:4711",), V4),
        ("10.1.2.3", (b"::ffff:203.0.113.9",), V4),
        ("10.1.2.3", (b"[2001:db8:7::1]:4711",), bytes.fromhex("20010db800070000")),
        ("2001:db8:1::5", (b"2001:db8:7:0:ffff::2",), bytes.fromhex("20010db800070000")),  # the same /64
        ("10.1.2.3", (), bytes([10, 1, 2, 3])),
        ("10.1.2.3", (b"unknown",), bytes([10, 1, 2, 3])),
        ("10.1.2.3", (b"203.0.113.9, ",), bytes([10, 1, 2, 3])),
        ("10.1.2.3", (b"203.0.113.9, \xff\xfe",), bytes([10, 1, 2, 3])),
        ("10.1.2.3", (b"10.4.5.6",), bytes([10, 1, 2, 3])),
        ("10.1.2.3", (b"203.0.113.9" + b", 10.9.9.9" * (MAX_HOPS - 1),), V4),
        ("10.1.2.3", (b"203.0.113.9" + b", 10.9.9.9" * (MAX_HOPS + 1),), bytes([10, 1, 2, 3])),
    ],
)
def test_the_origin_is_the_right_most_hop_that_is_not_ours(host: str, values: tuple[bytes, ...], found: bytes) -> None:
    assert behind(host, *values) == found


def test_a_peer_without_an_address_is_nowhere() -> None:
    assert OURS.peer(None) == OURS.peer("unix") == NOWHERE


@given(st.binary(max_size=200))
def test_no_forwarded_value_is_ever_an_error(value: bytes) -> None:
    assert len(behind("10.1.2.3", value)) in {4, 8}


@pytest.mark.parametrize("text", ["10.0.0.0/33", "proxy.example", "", "10.0.0.0/8 "])
def test_what_is_no_network_is_told_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="trusted_proxies"):
        networks([text])


def test_an_address_is_the_part_that_one_customer_holds() -> None:
    assert address_of(ipaddress.ip_address("203.0.113.9")) == V4
    assert len(address_of(ipaddress.ip_address("2001:db8::1"))) == 8
