"""One inference call to Triton over gRPC, and what its failures mean for the road."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2

from serving.rpc.channel import Channel
from serving.rpc.stream import RpcFault, Unheard
from serving.subnets.base import Tensors
from serving.types import Life, ReleaseId

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
_LIVE = "/inference.GRPCInferenceService/ServerLive"
_LIFE: dict[grpc.StatusCode, Life] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "silent", grpc.StatusCode.UNAVAILABLE: "away", grpc.StatusCode.CANCELLED: "away",
}  # fmt: skip
_NUMERIC = {
    "BOOL": np.dtype("?"), "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"), "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"), "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _NUMERIC.items()}


class TritonFault(Exception):
    """Triton gave no answer that can be used; `code` says why, in a word for counters."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


class ServerDown(TritonFault):
    """No release can answer now: the server is away, starting, or draining. Worth another try."""


class ReleaseMissing(TritonFault):
    """The server is there, the release is not loaded. Worth another try, elsewhere first."""


class ReleaseFault(TritonFault):
    """The release itself failed on this request; another try would fail again."""


class TooLate(TritonFault):
    """The time given ran out."""


class Triton:
    """A client of one Triton server, for one event loop."""

    def __init__(self, address: str) -> None:
        """`address`: host and port, an IPv6 host in brackets; raises UserError for anything else."""
        self.address = address
        self._channel = Channel(address)

    async def infer(
        self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float
    ) -> dict[str, npt.NDArray[Any]]:
        """The release's outputs by name, without ``RELEASE``, which must name the release that was asked.

        `priority` is 1 (first) to 3; `timeout_s` bounds the wait in Triton's queue and the whole call.
        Triton finishes a call that was cancelled here or is too late: it dies now and then of one that is cancelled
        there, by a reset or by a deadline of gRPC's (server#7368, server#8034; 2.51 after about a thousand). In its
        queue a call waits no longer than `timeout_s`. Raises ServerDown, ReleaseMissing, ReleaseFault or TooLate.
        """
        if timeout_s <= 0:
            raise TooLate("too_late")
        request = encode_request(release, tensors, priority=priority, timeout_s=timeout_s)
        try:
            reply = await self._channel.unary(_INFER, request.SerializeToString(), timeout_s)
        except RpcFault as fault:
            raise fault_of(fault.code, fault.detail) from None
        return _own(release, decode_response(_read(service_pb2.ModelInferResponse, reply)))

    async def stream(
        self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float
    ) -> AsyncGenerator[Tensors, None]:
        """The outputs of each response of a decoupled release; the first must carry ``RELEASE``, as in `infer`.

        `timeout_s` bounds the whole stream. Raises as `infer` does, after some responses too; a stream that ends
        without Triton's final mark is a ReleaseFault. Close the generator to cancel what still runs.
        """
        if timeout_s <= 0:
            raise TooLate("too_late")
        request = encode_request(release, tensors, priority=priority, timeout_s=timeout_s)
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        replies = self._channel.replies(_STREAM, request.SerializeToString(), timeout_s)
        named = False
        try:
            async for raw in replies:
                reply = _read(service_pb2.ModelStreamInferResponse, raw)
                if reply.error_message:
                    raise fault_told(reply.error_message)
                response = reply.infer_response
                if response.outputs:
                    outputs = decode_response(response)
                    if not named or "RELEASE" in outputs:
                        outputs = _own(release, outputs)
                    named = True
                    yield outputs
                if "triton_final_response" in response.parameters and (
                    response.parameters["triton_final_response"].bool_param
                ):
                    return
        except RpcFault as fault:
            raise fault_of(fault.code, fault.detail) from None
        finally:
            await replies.aclose()
        raise ReleaseFault("cut_short", "the stream ended without its final response")

    async def life(self, within_s: float) -> Life:
        """What the server says within this time when it is asked whether it lives; any word but "not yet" will do."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while (left_s := until - loop.time()) > 0:
            try:
                reply = await self._channel.unary(_LIVE, b"", left_s)
            except Unheard:
                continue
            except RpcFault as fault:
                return _LIFE.get(fault.code, "lives")
            return "lives" if _read(service_pb2.ServerLiveResponse, reply).live else "away"
        return "silent"

    async def close(self) -> None:
        """End every call here, and close the connection."""
        await self._channel.close()


def _read(kind: Any, raw: memoryview) -> Any:
    """A message of this kind; raises ReleaseFault for bytes that are none."""
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise ReleaseFault("garbled", "a response that is no message of Triton's") from None


def _own(release: ReleaseId, outputs: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The outputs without ``RELEASE``, which must name the release that was asked."""
    served_by = outputs.pop("RELEASE", None)
    if served_by is None or served_by.size != 1 or served_by.reshape(-1)[0] != release.encode():
        raise ReleaseFault("wrong_release", "the RELEASE output does not name the release that was asked")
    return outputs


def fault_of(code: grpc.StatusCode, detail: str) -> TritonFault:
    """What a gRPC status means for the road."""
    if code is grpc.StatusCode.NOT_FOUND or (code is grpc.StatusCode.UNAVAILABLE and "unknown model" in detail):
        return ReleaseMissing("release_missing", detail)
    if code is grpc.StatusCode.UNAVAILABLE and "not ready" in detail and "model" in detail:
        return ReleaseMissing("release_missing", detail)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED or "timeout expired" in detail.lower():  # here, or in Triton's queue
        return TooLate("too_late", detail)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return ServerDown("triton_down", detail)
    if "stub process" in detail.lower():  # the sidecar has the release loaded anew within seconds
        return ReleaseMissing("stub_down", detail)
    return ReleaseFault("release_failed", detail)


def fault_told(text: str) -> TritonFault:
    """What a stream's error means; Triton gives its text alone, without a status."""
    if "unknown model" in text or "not ready" in text:
        return ReleaseMissing("release_missing", text)
    return fault_of(grpc.StatusCode.UNKNOWN, text)


def encode_request(release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float) -> Any:
    """A ModelInferRequest with its tensors as raw bytes, its priority, and its queue timeout in microseconds."""
    request = service_pb2.ModelInferRequest(model_name=release)
    for name, tensor in tensors.items():
        datatype, raw = pack(tensor)
        request.inputs.add(name=name, datatype=datatype, shape=tensor.shape)
        request.raw_input_contents.append(raw)
    request.parameters["priority"].uint64_param = priority
    request.parameters["timeout"].int64_param = max(1, int(timeout_s * 1e6))
    return request


def decode_response(response: Any) -> dict[str, npt.NDArray[Any]]:
    """Output tensors by name, read-only views of the message; raises ReleaseFault when bytes and shape disagree."""
    outputs: dict[str, npt.NDArray[Any]] = {}
    if len(response.outputs) != len(response.raw_output_contents):
        raise ReleaseFault("garbled", "outputs without bytes")
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        try:
            outputs[output.name] = unpack(output.datatype, tuple(output.shape), raw)
        except (KeyError, ValueError, struct.error):
            raise ReleaseFault("garbled", f"output {output.name} is not what its shape says") from None
    return outputs


def pack(tensor: npt.NDArray[Any]) -> tuple[str, bytes]:
    """Triton's datatype and raw bytes of an array; anything that is not numeric goes as BYTES."""
    numeric = _NAMES.get(tensor.dtype)
    if numeric is None:
        return "BYTES", _pack_strings(tensor)
    return numeric, tensor.tobytes()


def unpack(datatype: str, shape: tuple[int, ...], raw: bytes) -> npt.NDArray[Any]:
    """The array that `pack` packed, a read-only view where it can be; raises KeyError, ValueError or struct.error."""
    flat = _unpack_strings(raw) if datatype == "BYTES" else np.frombuffer(raw, _NUMERIC[datatype])
    return flat.reshape(shape)


def _pack_strings(tensor: npt.NDArray[Any]) -> bytes:
    parts = bytearray()
    for item in tensor.reshape(-1):
        data = item if isinstance(item, bytes) else str(item).encode()
        parts += struct.pack("<I", len(data)) + data
    return bytes(parts)


def _unpack_strings(raw: bytes) -> npt.NDArray[Any]:
    found, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4 + length
        if at > len(raw):
            raise ValueError("a string is longer than the tensor")
        found.append(raw[at - length : at])
    flat = np.empty(len(found), dtype=object)
    flat[:] = found
    return flat
