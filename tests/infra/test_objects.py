"""The object store against a real SeaweedFS: create-once, absence, lists, and one line for each failure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.objects import ObjectMissing, ObjectStore, ObjectStoreError, object_store
from infra.settings import S3, Settings
from serving.errors import UserError

NOWHERE = ObjectStore("http://127.0.0.1:1", "headframe", "key", "secret", "us-east-1")


def test_a_store_that_is_down_is_told_in_one_line_that_names_it() -> None:
    for call in (
        lambda: NOWHERE.get("a"),
        lambda: NOWHERE.put("a", b""),
        lambda: NOWHERE.exists("a"),
        lambda: NOWHERE.list("a"),
        lambda: NOWHERE.delete("a"),
    ):
        with pytest.raises(ObjectStoreError, match=r"127\.0\.0\.1:1.*does not answer") as told:
            call()
        assert "\n" not in str(told.value)
        assert not isinstance(told.value, ObjectMissing)
    assert NOWHERE.ready() is False


def test_a_home_that_was_never_up_has_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="S3 has no address"):
        object_store(Settings(home=tmp_path))
    assert object_store(Settings(home=tmp_path, s3=S3(endpoint="http://example:1"))).endpoint == "http://example:1"


@pytest.mark.slow
def test_put_get_list_delete(objects: ObjectStore) -> None:
    assert objects.ready()
    assert objects.put("a/1", b"one")
    objects.put("a/2", b"")
    objects.put("b", b"\x00" * 100_000)
    assert objects.get("a/1") == b"one"
    assert objects.get("b") == b"\x00" * 100_000
    assert objects.list("a/") == ["a/1", "a/2"]
    assert objects.list("c") == []
    objects.delete("a/1")
    objects.delete("a/1")
    assert not objects.exists("a/1")
    assert objects.exists("a/2")
    with pytest.raises(ObjectMissing, match="no object s3://headframe/a/1"):
        objects.get("a/1")


@pytest.mark.slow
def test_only_one_of_many_creates_an_object(objects: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: objects.put("once", b"%d" % n, only_if_absent=True), range(8)))
    assert sum(made) == 1
    assert objects.get("once") == b"%d" % made.index(True)
    assert objects.put("once", b"later", only_if_absent=True) is False
    assert objects.get("once") == b"%d" % made.index(True)


@pytest.mark.slow
def test_a_list_goes_on_past_one_page(objects: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: objects.put(f"many/{n:04}", b""), range(1005)))
    assert objects.list("many/") == [f"many/{n:04}" for n in range(1005)]


@pytest.mark.slow
def test_wrong_keys_and_a_missing_bucket_say_so(s3_server: str) -> None:
    s3 = S3()
    stranger = ObjectStore(s3_server, s3.bucket, s3.access_key, "wrong", s3.region)
    with pytest.raises(ObjectStoreError, match="access refused"):
        stranger.put("a", b"")
    lost = ObjectStore(s3_server, "nosuch", s3.access_key, s3.secret_key, s3.region)
    with pytest.raises(ObjectStoreError, match="no bucket 'nosuch'"):
        lost.list("")
    assert not lost.ready()
