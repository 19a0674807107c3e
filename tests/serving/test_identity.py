"""Who is welcome, by public key."""

from __future__ import annotations

from pathlib import Path

import bittensor_core
import pytest

from serving.errors import Refusal
from serving.identity import Identity
from serving.state import Neuron, NeuronTable, write_state
from serving.types import Hotkey
from tests.serving.callers import ALICE, BOB, CHARLIE, DAVE, STRANGER
from tests.serving.gateways import write_neurons


def refusal(identity: Identity, hotkey: str) -> tuple[int, str]:
    with pytest.raises(Refusal) as refused:
        identity.welcome(Hotkey(hotkey))
    return refused.value.status, refused.value.code


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_neurons(tmp_path)
    return tmp_path


def test_permit_and_stake_are_both_wanted(home: Path) -> None:
    permit_alone = Neuron(Hotkey(DAVE.ss58_address), 1, 999.0, True)
    stake_alone = Neuron(Hotkey(BOB.ss58_address), 2, 1e6, False)
    write_neurons(home, [permit_alone, stake_alone, Neuron(Hotkey(ALICE.ss58_address), 3, 1000.0, True)])
    identity = Identity(home / "neurons.json", stake_threshold=1000.0)
    assert refusal(identity, DAVE.ss58_address) == (403, "low_stake")
    assert refusal(identity, BOB.ss58_address) == (403, "no_permit")
    assert identity.welcome(Hotkey(ALICE.ss58_address)).stake == 1000.0


def test_priorities_are_thirds_by_stake(home: Path) -> None:
    identity = Identity(home / "neurons.json", stake_threshold=1000.0)
    assert [identity.welcome(Hotkey(k.ss58_address)).priority for k in (ALICE, BOB, CHARLIE)] == [1, 2, 3]


@pytest.mark.parametrize("pair", [ALICE, STRANGER])
def test_a_banned_or_unknown_key_gains_nothing_by_another_prefix(home: Path, pair: object) -> None:
    key = pair.public_key  # type: ignore[attr-defined]
    identity = Identity(home / "neurons.json", stake_threshold=1000.0, deny=[ALICE.ss58_address])
    assert refusal(identity, bittensor_core.ss58_encode(key, 0)) == (401, "hotkey_alias")
    assert refusal(identity, bittensor_core.ss58_encode(key, 42))[0] == 403


def test_a_new_table_takes_effect_and_a_lost_or_garbled_one_does_not(home: Path) -> None:
    identity = Identity(home / "neurons.json", stake_threshold=1000.0)
    assert refusal(identity, STRANGER.ss58_address) == (403, "not_registered")
    write_neurons(home, [Neuron(Hotkey(STRANGER.ss58_address), 7, 5000.0, True)])
    assert identity.welcome(Hotkey(STRANGER.ss58_address)).priority == 1
    assert refusal(identity, ALICE.ss58_address) == (403, "not_registered")
    alias = bittensor_core.ss58_encode(ALICE.public_key, 0)
    write_neurons(home, [Neuron(Hotkey(alias), 7, 5000.0, True)])  # a table we cannot trust
    assert identity.welcome(Hotkey(STRANGER.ss58_address)).priority == 1
    assert identity.file.problem == "neurons.json cannot be read (ValueError)"
    (home / "neurons.json").unlink()
    assert identity.welcome(Hotkey(STRANGER.ss58_address)).priority == 1
    assert identity.file.problem == "neurons.json is missing"


def test_who_validates_in_another_subnet_is_nobody_here(home: Path) -> None:
    identity = Identity(home / "neurons.json", stake_threshold=1000.0, netuid=2)  # the table is of 1
    assert refusal(identity, ALICE.ss58_address) == (503, "no_neurons")
    write_state(home / "neurons.json", NeuronTable(2, 0.0, [Neuron(Hotkey(ALICE.ss58_address), 1, 5000.0, True)]))
    assert identity.welcome(Hotkey(ALICE.ss58_address)).stake == 5000.0
    write_neurons(home, [])
    assert identity.welcome(Hotkey(ALICE.ss58_address)).stake == 5000.0  # the last table of our own stays in force
