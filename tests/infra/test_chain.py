from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from infra.chain import BittensorChain, ChainDown
from serving.errors import UserError
from serving.state import Neuron
from serving.types import Hotkey


class Client:
    """The SDK's client at its edge: answers with `answer`, or raises it, or never answers."""

    answer: Any = None

    def __init__(self, network: str) -> None:
        self.subnets = SimpleNamespace(metagraph=self.metagraph)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def metagraph(self, netuid: int, *, commitments: bool) -> Any:
        assert not commitments
        if self.answer == "hangs":
            await asyncio.sleep(60)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    monkeypatch.setattr("bittensor.Client", Client)
    return Client


def test_stake_is_in_tao(client: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    stake = SimpleNamespace(rao=1_500_000_000)
    neuron = SimpleNamespace(hotkey="5abc", uid=3, total_stake=stake, validator_permit=True)
    monkeypatch.setattr(client, "answer", SimpleNamespace(neurons=[neuron]))
    found = BittensorChain("test").neurons(50)
    assert found.neurons == [Neuron(Hotkey("5abc"), 3, 1.5, True)]
    assert found.netuid == 50


def test_a_subnet_that_is_not_there(client: type[Client]) -> None:
    with pytest.raises(UserError, match="test has no subnet 50"):
        BittensorChain("test").neurons(50)


def test_what_the_sdk_lets_through_is_one_line(client: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "answer", ValueError("Runtime API Call not found in registry"))
    with pytest.raises(ChainDown, match="test cannot be read: ValueError: Runtime API"):
        BittensorChain("test").neurons(50)


def test_a_chain_that_hangs_meets_the_deadline(client: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "answer", "hangs")
    with pytest.raises(ChainDown, match="did not answer within 0 s"):
        BittensorChain("test", deadline=0.05).neurons(50)
