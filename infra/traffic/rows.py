"""Traffic records as rows of a typed Parquet file, and back without a loss.

One file holds one segment. Its footer says which, how many rows, and the digest of the rows, which `decode` checks.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from serving.errors import UserError
from serving.traffic.records import TensorBytes, TrafficRecord

if TYPE_CHECKING:
    import pyarrow as pa

FOOTER = b"headframe"
_FORMAT = 1


class RowsError(UserError):
    """A file that is not what its footer says."""


class Footer(msgspec.Struct, frozen=True):
    """What a file says of itself, as JSON under ``headframe`` in the Parquet footer."""

    format: int
    segment: str
    """Name of the segment, without its ending."""
    rows: int
    sha256: str
    """`digest` of the rows."""
    damaged_bytes: int = 0
    """Bytes of the segment behind a torn or damaged frame, which hold no row that can be read."""


def digest(records: Iterable[TrafficRecord]) -> str:
    """sha256 over what identifies each row and its answer, in order.

    Bodies are not in it, so that a segment that lost them to the disk cap is still the same segment.
    """
    found = hashlib.sha256()
    for r in records:
        found.update(f"{r.request_id} {nanoseconds(r.at)} {r.role} {r.release} {r.code} {r.answer_digest}\n".encode())
    return found.hexdigest()


def schema() -> pa.Schema:
    """The columns; times are UTC, and exact to the nanosecond."""
    import pyarrow as pa

    moment = pa.timestamp("ns", tz="UTC")
    tensor = pa.struct(
        [("name", pa.string()), ("dtype", pa.string()), ("shape", pa.list_(pa.int64())), ("data", pa.binary())]
    )
    return pa.schema([
        ("segment", pa.string()), ("row", pa.int32()), ("request_id", pa.string()), ("at", moment),
        ("subnet_at", moment), ("dialect", pa.string()), ("caller", pa.string()), ("receiver", pa.string()),
        ("netuid", pa.int32()), ("authenticated", pa.bool_()), ("slot", pa.string()), ("synapse", pa.string()),
        ("role", pa.string()), ("release", pa.string()), ("status", pa.int16()), ("code", pa.string()),
        ("reason", pa.string()), ("request", pa.binary()), ("given", pa.binary()), ("seed", pa.uint64()),
        ("inputs", pa.string()), ("tensors", pa.list_(tensor)), ("answer_digest", pa.string()),
        ("answer_bytes", pa.int64()), ("answer_crc", pa.uint32()), ("deadline_s", pa.float64()),
        ("timings_ms", pa.map_(pa.string(), pa.float64())),
    ])  # fmt: skip


def encode(records: Sequence[TrafficRecord], segment: str, *, damaged_bytes: int = 0) -> bytes:
    """A Parquet file (zstd) of the records of `segment`, its name without the ending."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    footer = Footer(_FORMAT, segment, len(records), digest(records), damaged_bytes)
    columns = [_row(record, segment, number) for number, record in enumerate(records)]
    table = pa.Table.from_pylist(columns, schema=schema())
    table = table.replace_schema_metadata({FOOTER: msgspec.json.encode(footer)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=_repeating())
    return buffer.getvalue()


def give_back() -> None:
    """Hand back to the system what Arrow keeps for its next file: some 80 MB, and the next is minutes away."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def decode(data: bytes, name: str) -> tuple[Footer, pa.Table]:
    """The footer and the rows of a file; raises RowsError when they do not agree. `name` is for the message."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
        footer = msgspec.json.decode((table.schema.metadata or {})[FOOTER], type=Footer)
    except (pa.ArrowException, KeyError, msgspec.DecodeError) as error:
        raise RowsError(f"{name} is not a file of the traffic record: {str(error).splitlines()[0][:200]}") from None
    if footer.format != _FORMAT:
        raise RowsError(f"{name} has format {footer.format}; this version reads {_FORMAT}")
    return footer, table


def records_of(footer: Footer, table: pa.Table, name: str) -> list[TrafficRecord]:
    """The records of a file, exactly as they were written; raises RowsError when the digest is another."""
    import pyarrow as pa

    for time in ("at", "subnet_at"):
        table = table.set_column(table.schema.get_field_index(time), time, table.column(time).cast(pa.int64()))
    records = [_record(row) for row in table.to_pylist()]
    if len(records) != footer.rows or digest(records) != footer.sha256:
        raise RowsError(f"{name}: its rows are not those that its footer names")
    return records


def nanoseconds(at: float) -> int:
    """A float time in whole nanoseconds; `seconds` gives back the very same float for any time since March 1970."""
    whole = int(at // 1)
    return whole * 10**9 + round((at - whole) * 1e9)


def seconds(nanoseconds: int) -> float:
    """The float time that `nanoseconds` was made of; division of integers is rounded once."""
    return nanoseconds / 10**9


def _row(record: TrafficRecord, segment: str, number: int) -> dict[str, Any]:
    row = msgspec.structs.asdict(record)
    row |= {
        "segment": segment,
        "row": number,
        "at": nanoseconds(record.at),
        "subnet_at": nanoseconds(record.subnet_at),
        "inputs": msgspec.json.encode(record.inputs).decode(),
        "tensors": [{"name": name, **msgspec.structs.asdict(tensor)} for name, tensor in record.tensors.items()],
        "timings_ms": list(record.timings_ms.items()),
    }
    return row


def _record(row: dict[str, Any]) -> TrafficRecord:
    facts = {name: row[name] for name in TrafficRecord.__struct_fields__ if row.get(name) is not None}
    facts |= {
        "at": seconds(row["at"]),
        "subnet_at": seconds(row["subnet_at"]),
        "inputs": msgspec.json.decode(row["inputs"]),
        "tensors": {each["name"]: TensorBytes(each["dtype"], each["shape"], each["data"]) for each in row["tensors"]},
        "timings_ms": dict(row["timings_ms"]),
        "release": row["release"],
    }
    return TrafficRecord(**facts)


def _repeating() -> list[str]:
    """Columns of few values, which a dictionary makes small."""
    return [
        "segment", "dialect", "caller", "receiver", "netuid", "slot", "synapse", "role", "release", "status", "code",
        "inputs",
    ]  # fmt: skip
