"""Bundle fitted parameters as the files that Triton loads: the same parameters give the same bytes, always."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triton_models.synth_paths.train import FAMILY, GRIDS, Example, Params

HERE = Path(__file__).resolve().parent
WARMUP_PATHS = 1_000
"""Paths each warm-up request asks for, as validators do."""
_DATATYPES = {"float32": "FP32", "int32": "INT32", "int64": "INT64", "uint64": "UINT64", "object": "BYTES"}


def request_tensors(slot: str, example: Example, seed: int, n: int = WARMUP_PATHS) -> dict[str, npt.NDArray[Any]]:
    """The input tensors (1, ...) of one request for `n` paths on the slot's grid."""
    increment, length = GRIDS[slot]
    return {
        "PRICE": np.array([[example.price]], dtype=np.float32),
        "HISTORY": example.history[None].astype(np.float32),
        "START": np.array([[example.start]], dtype=np.int64),
        "GRID": np.array([[increment, length]], dtype=np.int32),
        "N": np.array([[n]], dtype=np.int32),
        "SEED": np.array([[seed]], dtype=np.uint64),
        "ASSET": np.array([[example.asset.encode()]], dtype=np.object_),
    }


def export(params: Params, folder: Path) -> None:
    """Write model.py, params.json, warmup.json, config.pbtxt and the load-time warm-up tensors below `folder`."""
    version, first = folder / "1", folder / "warmup"
    version.mkdir(parents=True, exist_ok=True)
    first.mkdir(exist_ok=True)
    shutil.copyfile(HERE / "config.pbtxt", folder / "config.pbtxt")
    shutil.copyfile(HERE / "model.py", version / "model.py")
    (version / "params.json").write_bytes(_canonical(params.as_dict()))
    requests = [request_tensors(params.slot, example, seed) for seed, example in enumerate(params.examples)]
    (version / "warmup.json").write_bytes(_canonical(_warmup(params.slot, requests)))
    for name, tensor in requests[0].items():
        (first / name).write_bytes(_raw(tensor))


def _warmup(slot: str, requests: list[dict[str, npt.NDArray[Any]]]) -> dict[str, Any]:
    """Requests in the shape of KServe v2 JSON, and what a right answer to each looks like; NaN is null."""
    increment, length = GRIDS[slot]
    shape = [1, WARMUP_PATHS, length // increment + 1]
    outputs = {
        "PATHS": {"datatype": "FP32", "shape": shape, "positive": True},
        "RELEASE": {"datatype": "BYTES", "shape": [1, 1]},
    }
    inputs = [{name: _tensor_json(tensor) for name, tensor in request.items()} for request in requests]
    return {"family": FAMILY, "requests": [{"inputs": each, "outputs": outputs} for each in inputs]}


def _tensor_json(tensor: npt.NDArray[Any]) -> dict[str, Any]:
    return {
        "datatype": _DATATYPES[tensor.dtype.name],
        "shape": list(tensor.shape),
        "data": [_plain(value) for value in tensor.ravel()],
    }


def _plain(value: Any) -> Any:
    """A JSON value that reads back as the very same float32, integer or text."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.floating):
        return float(str(value)) if np.isfinite(value) else None  # str: the shortest text that is still this float32
    return int(value)


def _raw(tensor: npt.NDArray[Any]) -> bytes:
    """A tensor as Triton's warm-up reads it: little-endian values, texts behind a 4-byte length."""
    if tensor.dtype == np.object_:
        return b"".join(struct.pack("<I", len(text)) + text for text in tensor.ravel())
    return tensor.tobytes()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"
