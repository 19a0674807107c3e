"""Records as Parquet rows: nothing is lost on the way there and back."""

from __future__ import annotations

import io
from typing import get_args

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.traffic import rows
from serving.traffic.records import Role, TensorBytes, TrafficRecord
from serving.traffic.writer import without_body
from tests.serving.records import record

_text = st.text(st.characters(codec="utf-8"), max_size=12)
_unix = st.floats(1e8, 4e9)
_tensors = st.builds(TensorBytes, _text, st.lists(st.integers(0, 2**40), max_size=3), st.binary(max_size=20))
_facts = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | _text
)
RECORDS = st.builds(
    TrafficRecord, request_id=_text, at=_unix, subnet_at=_unix, dialect=_text, caller=_text, receiver=_text,
    netuid=st.integers(0, 65535), authenticated=st.booleans(), slot=_text, synapse=_text,
    role=st.sampled_from(get_args(Role)), release=st.none() | _text, status=st.integers(100, 599), code=_text,
    reason=st.none() | _text, request=st.binary(max_size=20), given=st.binary(max_size=20),
    seed=st.integers(0, 2**63 - 1), inputs=st.dictionaries(_text, _facts, max_size=3),
    tensors=st.dictionaries(_text, _tensors, max_size=2), answer_digest=st.none() | _text,
    answer_bytes=st.integers(0, 2**40), answer_crc=st.none() | st.integers(0, 2**32 - 1),
    deadline_s=st.floats(0, 1e6), timings_ms=st.dictionaries(_text, st.floats(0, 1e9), max_size=3),
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(RECORDS, max_size=4))
@settings(max_examples=60, deadline=None)
def test_records_come_back_as_they_were(written: list[TrafficRecord]) -> None:
    footer, table = rows.decode(rows.encode(written, "0-1-1"), "x")
    assert rows.records_of(footer, table, "x") == written
    assert (footer.segment, footer.rows) == ("0-1-1", len(written))


@given(_unix)
def test_times_are_exact(at: float) -> None:
    assert rows.seconds(rows.nanoseconds(at)) == at


def test_every_field_of_a_record_has_a_column() -> None:
    assert set(rows.schema().names) == {*TrafficRecord.__struct_fields__, "segment", "row"}


def test_the_columns_are_typed_and_small() -> None:
    data = rows.encode([record(n) for n in range(500)], "0-1-1")
    file = pq.ParquetFile(io.BytesIO(data))
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types["at"] == types["subnet_at"] == "timestamp[ns, tz=UTC]"
    assert (types["request"], types["seed"], types["timings_ms"][:18]) == ("binary", "uint64", "map<string, double")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert len(data) < 30_000


def test_the_digest_is_of_rows_and_answers_and_not_of_bodies() -> None:
    written = [record(1), record(2)]
    assert rows.digest(written) == rows.digest(map(without_body, written))
    for other in ([record(1)], [record(2), record(1)], [record(1), record(2, answer_digest="e")]):
        assert rows.digest(other) != rows.digest(written)


def test_a_file_that_is_another_is_refused() -> None:
    data = rows.encode([record(1)], "0-1-1")
    for bad in (data[:-1], b"", data[:40]):
        with pytest.raises(rows.RowsError, match="x is not a file of the traffic record"):
            rows.decode(bad, "x")
    footer, _ = rows.decode(data, "x")
    _, other = rows.decode(rows.encode([record(2)], "0-1-1"), "x")
    with pytest.raises(rows.RowsError, match="not those that its footer names"):
        rows.records_of(footer, other, "x")
    with pytest.raises(rows.RowsError, match="not those that its footer names"):
        rows.records_of(msgspec.structs.replace(footer, rows=2), other, "x")
