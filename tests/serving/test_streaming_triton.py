"""A decoupled Python model on a real tritonserver: what its stream looks like to our client, faults included."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from serving.subnets.base import Tensors
from serving.triton import ReleaseFault, ReleaseMissing, ServerDown, TooLate, Triton
from serving.types import ReleaseId
from tests.servers import TritonServer, loaded

pytestmark = [pytest.mark.slow, pytest.mark.triton]

CONFIG = """
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [
  { name: "N" data_type: TYPE_INT32 dims: [1] },
  { name: "FAIL_AT" data_type: TYPE_INT32 dims: [1] },
  { name: "PAUSE_S" data_type: TYPE_FP32 dims: [1] }
]
output [
  { name: "Y" data_type: TYPE_INT32 dims: [1] },
  { name: "RELEASE" data_type: TYPE_STRING dims: [1] }
]
"""
MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.release = np.array([args["model_name"].encode()], dtype=object)

    def execute(self, requests):
        for request in requests:
            read = lambda name: pb.get_input_tensor_by_name(request, name).as_numpy()[0]
            out = request.get_response_sender()
            for number in range(int(read("N"))):
                if out.is_cancelled():
                    break
                if number == read("FAIL_AT"):
                    out.send(pb.InferenceResponse(error=pb.TritonError("it broke")))
                    break
                tensors = [pb.Tensor("Y", np.array([number], dtype=np.int32))]
                if number == 0:
                    tensors.append(pb.Tensor("RELEASE", self.release))
                out.send(pb.InferenceResponse(tensors))
                time.sleep(float(read("PAUSE_S")))
            out.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
RELEASE = ReleaseId("counter-0123456789ab")


@pytest.fixture(scope="module")
def address(triton_server: TritonServer) -> Iterator[str]:
    with loaded(triton_server, RELEASE, CONFIG, MODEL):
        yield triton_server.triton.address


@pytest.fixture
async def triton(address: str) -> AsyncIterator[Triton]:
    client = Triton(address)
    yield client
    await client.close()


def count(n: int, *, fail_at: int = -1, pause_s: float = 0.0) -> Tensors:
    return {
        "N": np.array([n], np.int32),
        "FAIL_AT": np.array([fail_at], np.int32),
        "PAUSE_S": np.array([pause_s], np.float32),
    }


async def taken(
    triton: Triton, tensors: Tensors, *, release: ReleaseId = RELEASE, timeout_s: float = 20.0
) -> list[int]:
    """The numbers that came, the fault that ended them raised with them as its last argument."""
    found: list[int] = []
    try:
        async for outputs in triton.stream(release, tensors, priority=1, timeout_s=timeout_s):
            assert list(outputs) == ["Y"]
            found.append(int(outputs["Y"][0]))
    except Exception as fault:
        fault.args = (*fault.args, found)
        raise
    return found


async def test_all_responses_come_in_order(triton: Triton) -> None:
    assert await taken(triton, count(5)) == [0, 1, 2, 3, 4]
    assert await taken(triton, count(300)) == list(range(300))


async def test_a_stream_without_any_response_is_empty(triton: Triton) -> None:
    assert await taken(triton, count(0)) == []


async def test_a_model_that_fails_half_way_is_a_fault(triton: Triton) -> None:
    with pytest.raises(ReleaseFault, match="it broke") as caught:
        await taken(triton, count(5, fail_at=2))
    assert caught.value.args[-1] == [0, 1]


async def test_a_release_that_is_not_loaded_is_missing(triton: Triton) -> None:
    with pytest.raises(ReleaseMissing):
        await taken(triton, count(5), release=ReleaseId("counter-000000000000"))


async def test_the_time_given_bounds_the_whole_stream(triton: Triton) -> None:
    with pytest.raises(TooLate) as caught:
        await taken(triton, count(1000, pause_s=0.05), timeout_s=3.0)
    assert 0 < len(caught.value.args[-1]) <= 61


async def test_a_stream_that_is_closed_early_leaves_the_model_free(triton: Triton) -> None:
    stream = triton.stream(RELEASE, count(1000, pause_s=0.1), priority=1, timeout_s=20.0)
    assert int((await anext(stream))["Y"][0]) == 0
    await stream.aclose()
    assert await taken(triton, count(2)) == [0, 1]


async def test_a_server_that_is_away_is_down() -> None:
    client = Triton("127.0.0.1:9")
    with pytest.raises(ServerDown):
        await taken(client, count(1))
    await client.close()
