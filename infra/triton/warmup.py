"""Warm a loaded release with its own requests at every batch size, and check every answer on the way.

READY does not mean fast, nor right: a release may be slow only at batch 8, or answer otherwise in company than alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from infra.releases import Release
from infra.triton.client import Arrays, Triton, TritonError

_DTYPES = {"FP32": np.float32, "FP64": np.float64, "INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64}


class _Tensor(msgspec.Struct, frozen=True):
    datatype: str
    shape: list[int]
    data: list[float | int | str | None] = []
    positive: bool = False


class _Request(msgspec.Struct, frozen=True):
    inputs: dict[str, _Tensor]
    outputs: dict[str, _Tensor]


class _Warmup(msgspec.Struct, frozen=True):
    """``1/warmup.json``: requests in the shape of KServe v2 JSON, null for NaN, and what a right answer looks like."""

    requests: list[_Request]


class BatchWarm(msgspec.Struct, frozen=True):
    """One batch size: milliseconds of one request that carries the whole batch."""

    size: int
    first_ms: float
    ms: float
    """Median of the rounds after the first."""


class WarmReport(msgspec.Struct, frozen=True):
    """What a warm-up saw; there is none unless every answer was right."""

    release: str
    requests: int
    first_ms: float
    """The very first request after the load."""
    batches: list[BatchWarm]
    formed: dict[int, int]
    """Batches that Triton executed, by size, over the life of the load."""


def requests_of(release: Release) -> list[Arrays]:
    """The release's own warm-up requests as input tensors, batch dimension of 1 first."""
    return [{name: _array(tensor) for name, tensor in each.inputs.items()} for each in _read(release).requests]


def warm(triton: Triton, release: Release, sizes: Iterable[int] = range(1, 9), *, rounds: int = 6) -> WarmReport:
    """Send the release's own requests at every batch size and check every answer.

    Each size goes twice: as that many requests at once, which Triton may batch, and as one request with that batch
    dimension. An answer must come from this release, have the declared type and shape, be finite (and positive where
    the bundle says so), and equal bit for bit the answer to the same request alone. Raises TritonError, which says
    what was wrong.
    """
    sizes = sorted({size for size in sizes if size <= max(release.manifest.signature.max_batch_size, 1)})
    if not sizes:
        raise TritonError(f"{release.id}: no batch size to warm")
    wanted = list(islice(cycle(_read(release).requests), sizes[-1]))
    inputs = [{name: _array(tensor) for name, tensor in each.inputs.items()} for each in wanted]
    alone: list[Arrays] = []
    first_ms = 0.0
    for i, (request, tensors) in enumerate(zip(wanted, inputs, strict=True)):
        began = time.perf_counter()
        alone.append(triton.infer(release.id, tensors))
        first_ms = first_ms or (time.perf_counter() - began) * 1e3
        _check(release, request, alone[-1], f"request {i}")
    batches = []
    with ThreadPoolExecutor(max_workers=sizes[-1]) as pool:
        for size in sizes:
            together = pool.map(lambda tensors: triton.infer(release.id, tensors), inputs[:size])
            for i, answer in enumerate(together):
                _same(release, answer, alone[i], f"request {i} among {size} at once")
            batches.append(_one_batch(triton, release, inputs[:size], alone[:size], rounds))
    sent = len(alone) + sum(size + rounds for size in sizes)
    return WarmReport(release.id, sent, round(first_ms, 3), batches, triton.batches(release.id))


def _one_batch(
    triton: Triton, release: Release, inputs: Sequence[Arrays], alone: Sequence[Arrays], rounds: int
) -> BatchWarm:
    """One request with batch dimension len(inputs), `rounds` times."""
    size = len(inputs)
    stacked = {name: np.concatenate([tensors[name] for tensors in inputs]) for name in inputs[0]}
    expected = {name: np.concatenate([answer[name] for answer in alone]) for name in alone[0]}
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        answer = triton.infer(release.id, stacked)
        times.append((time.perf_counter() - began) * 1e3)
        _same(release, answer, expected, f"a request of batch size {size}")
    return BatchWarm(size, round(times[0], 3), round(float(np.median(times[1:] or times)), 3))


def _check(release: Release, request: _Request, answer: Arrays, where: str) -> None:
    for name, wanted in request.outputs.items():
        got = answer.get(name)
        if got is None:
            raise TritonError(f"{release.id}: {where}: output {name} is missing")
        dtype = np.dtype(_DTYPES.get(wanted.datatype, np.object_))
        if got.dtype != dtype:
            raise TritonError(f"{release.id}: {where}: {name} is {got.dtype}, not {dtype}")
        if list(got.shape) != wanted.shape:
            raise TritonError(f"{release.id}: {where}: {name} has shape {list(got.shape)}, not {wanted.shape}")
        if got.dtype.kind == "f" and not np.isfinite(got).all():
            bad = got.size - int(np.isfinite(got).sum())
            raise TritonError(f"{release.id}: {where}: {bad} of {got.size} values of {name} are not finite")
        if wanted.positive and not (got > 0).all():
            raise TritonError(f"{release.id}: {where}: {name} has values that are not positive")
    if "RELEASE" in request.outputs and set(answer["RELEASE"].ravel()) != {release.id.encode()}:
        raise TritonError(f"{release.id}: {where}: answered by {answer['RELEASE'].ravel()[0]!r}")


def _same(release: Release, answer: Arrays, expected: Arrays, where: str) -> None:
    for name, value in expected.items():
        if not _identical(answer.get(name), value):
            raise TritonError(f"{release.id}: {where}: {name} differs from the answer to the same request alone")


def _identical(a: npt.NDArray[Any] | None, b: npt.NDArray[Any]) -> bool:
    if a is None or a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool((a == b).all()) if a.dtype == np.object_ else a.tobytes() == b.tobytes()


def _read(release: Release) -> _Warmup:
    try:
        warmup = msgspec.json.decode((release.folder / "1" / "warmup.json").read_bytes(), type=_Warmup)
    except (OSError, msgspec.DecodeError) as error:
        raise TritonError(f"{release.id}: 1/warmup.json cannot be used: {error}") from None
    if not warmup.requests:
        raise TritonError(f"{release.id}: 1/warmup.json holds no request")
    return warmup


def _array(tensor: _Tensor) -> npt.NDArray[Any]:
    if tensor.datatype == "BYTES":
        return np.array([str(v).encode() for v in tensor.data], dtype=np.object_).reshape(tensor.shape)
    values = [np.nan if value is None else value for value in tensor.data]
    return np.array(values, dtype=_DTYPES[tensor.datatype]).reshape(tensor.shape)
