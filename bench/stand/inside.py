"""A gateway whose workers have the model inside, so that nothing but the gateway itself is measured.

``python -m bench.stand.inside <listening fd> <parent pid>`` is one of its workers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import numpy as np

from serving.config import GatewayConfig
from serving.server import Parent
from serving.subnets.base import Tensors
from serving.types import Life, ReleaseId
from serving.workers import worker

_WALK = np.cumsum(np.random.default_rng(0).standard_normal((1000, 289)) * 0.0015, axis=1)
PATHS = (60_000 * np.exp(_WALK)).astype(np.float32)[np.newaxis]


class Inside:
    """Stands where Triton's client stands: ``X`` comes back as ``Y``, a Synth prompt gets the same paths always."""

    def __init__(self, address: str) -> None:
        """The address of no server."""

    async def infer(self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float) -> Tensors:
        """Outputs at once."""
        return {"Y": tensors["X"]} if "X" in tensors else {"PATHS": PATHS}

    async def stream(
        self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float
    ) -> AsyncGenerator[Tensors, None]:
        """The same as the one response of a stream."""
        yield await self.infer(release, tensors, priority=priority, timeout_s=timeout_s)

    async def life(self, within_s: float) -> Life:
        """Always."""
        return "lives"

    async def close(self) -> None:
        """Nothing to close."""


class InsideParent(Parent):
    """The parent of such workers, which is otherwise the real one."""

    worker = "bench.stand.inside"


def run(config: GatewayConfig) -> None:
    """Run the gateway until SIGTERM."""
    InsideParent(config).run()


if __name__ == "__main__":
    worker.main(Inside)
