"""The model behind a stand: any release echoes ``X``, or answers a Synth grid with flat paths.

Run as ``python -m bench.stand.model``; prints its port, then serves until its stdin closes.
"""

from __future__ import annotations

import sys
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.subnets.base import Tensors
from serving.triton import pack, unpack


def answer(tensors: Tensors) -> Tensors:
    """``Y`` for the echo subnet, ``PATHS`` (1, n, points) for Synth: the price, and it does not move."""
    if "X" in tensors:
        return {"Y": tensors["X"]}
    (increment, length), paths = tensors["GRID"][0], int(tensors["N"][0, 0])
    return {"PATHS": np.full((1, paths, length // increment + 1), tensors["PRICE"][0, 0], np.float64)}


class Model(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The two calls of Triton's service that the gateway makes."""

    def ModelReady(self, request: Any, context: Any) -> Any:
        """Every release is there."""
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        """One answer, with the ``RELEASE`` output that every release of ours has."""
        raws = zip(request.inputs, request.raw_input_contents, strict=True)
        tensors = {put.name: unpack(put.datatype, tuple(put.shape), raw) for put, raw in raws}
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        name = np.array([[request.model_name.encode()]], dtype=object)
        for output, tensor in {"RELEASE": name, **answer(tensors)}.items():
            datatype, raw = pack(tensor)
            response.outputs.add(name=output, datatype=datatype, shape=tensor.shape)
            response.raw_output_contents.append(raw)
        return response


def main() -> None:
    """Serve until the process that started this one closes the pipe, or is gone."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Model(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(grace=None).wait()


if __name__ == "__main__":
    main()
