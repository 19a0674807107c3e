"""What the chain knows of our subnet. Reads only; nothing here can sign."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from serving.errors import UserError
from serving.state import Neuron, NeuronTable
from serving.types import Hotkey

_RAO = 1e-9


class ChainPort(Protocol):
    """The reads that Headframe needs of a chain."""

    def neurons(self, netuid: int) -> NeuronTable:
        """The subnet's neurons as of now; raises ChainDown."""


class ChainDown(UserError):
    """The chain could not be read within the deadline."""


class BittensorChain:
    """The chain over the bittensor SDK.

    Args:
        network: ``finney``, ``test`` or a websocket address.
        deadline: Seconds for one read, connecting included.
    """

    def __init__(self, network: str, deadline: float = 60.0) -> None:
        self._network, self._deadline = network, deadline

    def neurons(self, netuid: int) -> NeuronTable:
        """One metagraph read without the commitments, which would cost two scans more."""
        try:
            return asyncio.run(asyncio.wait_for(self._neurons(netuid), self._deadline))
        except UserError:
            raise
        except TimeoutError:
            raise ChainDown(f"{self._network} did not answer within {self._deadline:.0f} s") from None
        except Exception as error:  # the SDK lets many kinds through, also for items a runtime lacks
            raise ChainDown(f"{self._network} cannot be read: {type(error).__name__}: {error}") from error

    async def _neurons(self, netuid: int) -> NeuronTable:
        import bittensor as bt

        async with bt.Client(self._network) as client:
            metagraph = await client.subnets.metagraph(netuid, commitments=False)
        if metagraph is None:
            raise UserError(f"{self._network} has no subnet {netuid}: set netuid")
        neurons = [
            Neuron(Hotkey(n.hotkey), int(n.uid), float(n.total_stake.rao * _RAO), bool(n.validator_permit))
            for n in metagraph.neurons
        ]
        return NeuronTable(netuid, time.time(), neurons)
