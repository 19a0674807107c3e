"""What a release takes and gives: the tensors that its ``config.pbtxt`` declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from infra.releases.errors import ReleaseError, one_line


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output without the batch dimension; -1 is any size."""

    name: str
    datatype: str
    """As in KServe v2: FP32, INT64, BYTES..."""
    shape: list[int]


class Signature(msgspec.Struct, frozen=True):
    """What a release takes and gives."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    max_batch_size: int


def read_signature(folder: Path) -> Signature:
    """The tensors that ``config.pbtxt`` declares; ReleaseError when it is missing or no model configuration."""
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    path = folder / "config.pbtxt"
    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ReleaseError(f"{path} is not a model configuration: {one_line(error)}") from None
    if config.name:
        raise ReleaseError(f"{path} has a name, {config.name!r}: leave it out, Triton takes the release's id")

    def specs(tensors: Any) -> list[TensorSpec]:
        kinds = [model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_") for tensor in tensors]
        kinds = ["BYTES" if kind == "STRING" else kind for kind in kinds]
        return [TensorSpec(t.name, kind, list(t.dims)) for t, kind in zip(tensors, kinds, strict=True)]

    return Signature(specs(config.input), specs(config.output), config.max_batch_size)


def signature_difference(candidate: Signature, champion: Signature) -> str | None:
    """Why requests for the champion would not fit the candidate, in one line; None when they would."""
    for side in ("inputs", "outputs"):
        mine = {spec.name: spec for spec in getattr(candidate, side)}
        theirs = {spec.name: spec for spec in getattr(champion, side)}
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name):
                have, want = _spec(mine.get(name)), _spec(theirs.get(name))
                return f"{side[:-1]} {name}: {have} in the candidate, {want} in the champion"
    return None


def _spec(spec: TensorSpec | None) -> str:
    return "absent" if spec is None else f"{spec.datatype} {spec.shape}"
