"""Subnets by the slots' names, each with the options that it takes."""

from __future__ import annotations

import pytest

from serving.errors import UserError
from serving.subnets.registry import FACTORIES, make, specs

OPTIONS = {"max_price_age": 60.0, "use_stale": True}


def test_every_subnet_that_is_known_can_be_made() -> None:
    subnets = make(specs(list(FACTORIES), **OPTIONS))
    assert [subnet.name for subnet in subnets] == list(FACTORIES)
    synapses = [route.synapse for subnet in subnets for route in subnet.routes]
    assert synapses == ["Simulation", "TextSynapse", "MicroSessionDetectionSynapse"]
    assert [subnet.netuid for subnet in subnets] == [50, 32, 126]


def test_every_route_says_what_the_road_asks_of_it() -> None:
    for subnet in make(specs(list(FACTORIES), **OPTIONS)):
        for route in subnet.routes:
            assert sorted(route.model_order) == sorted(route.hash_fields)
            assert route.monotonic_nonces is False
            assert 0 < route.max_timeout <= 180
            assert 0 < route.max_body <= 16 * 1024 * 1024
        assert all(slot.partition("-")[0] == subnet.name for slot in subnet.slots)


def test_options_go_only_where_they_are_taken() -> None:
    found = {spec.factory.split(".")[2]: spec.options for spec in specs(["poker44", "synth-low", "itsai"], **OPTIONS)}
    assert found == {"poker44": {}, "synth": OPTIONS, "itsai": {}}


def test_two_slots_of_a_subnet_make_it_once() -> None:
    assert len(specs(["synth-low", "synth-high"])) == 1


def test_an_unknown_slot_is_a_persons_error() -> None:
    with pytest.raises(UserError, match="no subnet serves 'chess-blitz'; known subnets: itsai, poker44, synth"):
        specs(["chess-blitz"])
