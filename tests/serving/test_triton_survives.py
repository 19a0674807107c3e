"""A real tritonserver outlives callers that leave and calls that are too late, which used to kill it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from serving.subnets.base import Tensors
from serving.triton import TooLate, Triton
from serving.types import ReleaseId
from tests.servers import TritonServer, loaded

pytestmark = [pytest.mark.slow, pytest.mark.triton]
CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "X" data_type: TYPE_FP32 dims: [-1] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [-1] }, { name: "RELEASE" data_type: TYPE_STRING dims: [1] } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
"""
MODEL = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.release = np.array([args["model_name"].encode()], dtype=object)

    def execute(self, requests):
        return [
            pb.InferenceResponse([
                pb.Tensor("Y", pb.get_input_tensor_by_name(request, "X").as_numpy()), pb.Tensor("RELEASE", self.release)
            ])
            for request in requests
        ]
"""
RELEASE = ReleaseId("same-0123456789ab")
X: Tensors = {"X": np.arange(16, dtype=np.float32)}


@pytest.fixture(scope="module")
def address(triton_server: TritonServer) -> Iterator[str]:
    with loaded(triton_server, RELEASE, CONFIG, MODEL):
        yield triton_server.triton.address


async def ask(triton: Triton, timeout_s: float = 30.0) -> None:
    outputs = await triton.infer(RELEASE, X, priority=1, timeout_s=timeout_s)
    np.testing.assert_array_equal(outputs["Y"], X["X"])


async def leave(triton: Triton, after_s: float) -> None:
    call = asyncio.ensure_future(ask(triton))
    await asyncio.sleep(after_s)
    call.cancel()
    await asyncio.wait([call])


async def be_late(triton: Triton, after_s: float) -> None:
    try:
        await ask(triton, max(after_s, 1e-6))
    except TooLate:
        return


@pytest.mark.parametrize("hurry", [leave, be_late])
async def test_six_thousand_calls_that_nobody_waits_for_kill_nothing(address: str, hurry: object) -> None:
    triton = Triton(address)
    await ask(triton)
    connection = triton._channel._connection
    for batch in range(375):
        await asyncio.gather(*(hurry(triton, number % 16 * 3e-4) for number in range(16)))  # type: ignore[operator]
        if batch % 25 == 0:
            await ask(triton)
    await ask(triton)
    assert triton._channel._connection is connection
    await triton.close()
