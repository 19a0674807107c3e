"""A Triton at the edge of a test: releases are plain functions, and the whole server can go away."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.subnets.base import Tensors
from serving.triton import ReleaseMissing, TritonFault, pack, unpack
from serving.types import ReleaseId

Model = Callable[[Tensors], Tensors]
StreamModel = Callable[[Tensors], Iterator[Tensors]]


def doubled(tensors: Tensors) -> Tensors:
    """What the tiny subnet wants."""
    return {"Y": (tensors["X"] * 2).astype(np.float32)}


def broken(tensors: Tensors) -> Tensors:
    """An answer that the tiny subnet's validator would void."""
    return {"Y": (tensors["X"] * np.nan).astype(np.float32)}


def doubled_each(tensors: Tensors) -> Iterator[Tensors]:
    """The same, one number a response."""
    for value in tensors["X"][0]:
        yield {"Y": np.array([[value * 2]], np.float32)}


class FakeTriton:
    """Stands in for `serving.triton.Triton` inside one process."""

    def __init__(self, **models: Model | StreamModel | TritonFault) -> None:
        self.models: dict[str, Any] = {name.replace("_", "-"): model for name, model in models.items()}
        self.asked: list[tuple[str, int, float, Tensors]] = []
        """Release, priority, timeout_s, tensors of every call."""

    async def infer(self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float) -> Tensors:
        self.asked.append((release, priority, timeout_s, tensors))
        model = self.models.get(release)
        if model is None:
            raise ReleaseMissing("release_missing")
        if isinstance(model, TritonFault):
            raise model
        outputs: Tensors = model(tensors)
        return outputs

    async def stream(
        self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float
    ) -> AsyncGenerator[Tensors, None]:
        for outputs in await self.infer(release, tensors, priority=priority, timeout_s=timeout_s):
            yield outputs  # type: ignore[misc]  # a stream model gives an iterator


class FakeTritonServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The same over real gRPC on a port that survives `stop` and `start`."""

    def __init__(self, *, port: int = 0, **models: Model | StreamModel) -> None:
        self.models: dict[str, Any] = {name.replace("_", "-"): model for name, model in models.items()}
        self.asked: list[Any] = []
        self.live = True
        self.questions = 0
        """How often it was asked whether it lives."""
        self.hold = threading.Event()
        """Calls wait for it; set by default."""
        self.hold.set()
        self.held = 0
        """How many calls wait for it now."""
        self._lock = threading.Lock()
        self.port = port
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=None).wait()

    def _wait(self) -> None:
        if self.hold.is_set():
            return
        with self._lock:
            self.held += 1
        self.hold.wait(60)
        with self._lock:
            self.held -= 1

    def ServerLive(self, request: Any, context: Any) -> Any:
        self.questions += 1
        return service_pb2.ServerLiveResponse(live=self.live)

    def ModelReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=request.name in self.models)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        self._wait()
        model = self.models.get(request.model_name)
        if model is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.model_name}' is not found")
        assert model is not None
        return _response(request.model_name, {**_released(request.model_name), **model(_tensors(request))})

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            self.asked.append(request)
            name = request.model_name
            if name not in self.models:
                text = f"Request for unknown model: '{name}' is not found"
                yield service_pb2.ModelStreamInferResponse(error_message=text)
                continue
            released = _released(name)
            try:
                for outputs in self.models[name](_tensors(request)):
                    yield service_pb2.ModelStreamInferResponse(infer_response=_response(name, {**released, **outputs}))
                    released = {}
                    self._wait()
            except ValueError as error:
                yield service_pb2.ModelStreamInferResponse(error_message=str(error))
            last = service_pb2.ModelInferResponse(model_name=name)
            last.parameters["triton_final_response"].bool_param = True
            yield service_pb2.ModelStreamInferResponse(infer_response=last)


def _released(name: str) -> Tensors:
    return {"RELEASE": np.array([[name.encode()]], dtype=object)}


def _tensors(request: Any) -> Tensors:
    raws = zip(request.inputs, request.raw_input_contents, strict=True)
    return {put.name: unpack(put.datatype, tuple(put.shape), raw) for put, raw in raws}


def _response(name: str, outputs: Tensors) -> Any:
    response = service_pb2.ModelInferResponse(model_name=name)
    for output, tensor in outputs.items():
        datatype, raw = pack(tensor)
        response.outputs.add(name=output, datatype=datatype, shape=tensor.shape)
        response.raw_output_contents.append(raw)
    return response
