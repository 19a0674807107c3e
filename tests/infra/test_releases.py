"""Releases: named by content, any changed byte is seen, no cut-off upload is, a fetch is all or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import releases
from infra.objects import ObjectMissing, ObjectStore, ObjectStoreError
from infra.releases import (
    MANIFEST,
    Release,
    ReleaseError,
    bundle,
    fetch,
    publish,
    seal,
    shelf,
    signature_difference,
    verify,
)
from tests.infra.bundles import sealed


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return sealed(tmp_path / "made")


class Memory(ObjectStore):
    """An object store at the edge of a test, whose nth call fails."""

    def __init__(self, fail_at: int = 0) -> None:
        self.kept: dict[str, bytes] = {}
        self.calls, self.fail_at = 0, fail_at

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise ObjectStoreError("the object store does not answer; is it up?")

    def put(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        self._call()
        if only_if_absent and key in self.kept:
            return False
        self.kept[key] = data
        return True

    def get(self, key: str) -> bytes:
        self._call()
        if key not in self.kept:
            raise ObjectMissing(f"no object {key}")
        return self.kept[key]

    def exists(self, key: str) -> bool:
        self._call()
        return key in self.kept


# ---- sealing


def test_a_release_is_named_by_its_content(tmp_path: Path, release: Release) -> None:
    assert release.id == f"synth-high-{release.sha256[:12]}"
    assert release.folder == tmp_path / "made" / release.id
    assert verify(release.folder) == release
    assert sealed(tmp_path / "elsewhere").sha256 == release.sha256
    assert sealed(tmp_path / "other", sigma_scale=2.0).sha256 != release.sha256


def test_the_manifest_lists_every_file_and_the_tensors(release: Release) -> None:
    on_disk = {p.relative_to(release.folder).as_posix() for p in release.folder.rglob("*") if p.is_file()}
    assert set(release.manifest.files) == on_disk - {MANIFEST}
    signature = release.manifest.signature
    assert [(t.name, t.datatype, t.shape) for t in signature.outputs] == [
        ("PATHS", "FP32", [-1, -1]),
        ("RELEASE", "BYTES", [1]),
    ]
    assert {t.name: (t.datatype, t.shape) for t in signature.inputs} == {
        "PRICE": ("FP32", [1]), "HISTORY": ("FP32", [2, 512]), "START": ("INT64", [1]), "GRID": ("INT32", [2]),
        "N": ("INT32", [1]), "SEED": ("UINT64", [1]), "ASSET": ("BYTES", [1]),
    }  # fmt: skip
    assert signature.max_batch_size == 8


def test_sealing_the_same_content_again_gives_the_release_that_is_there(tmp_path: Path, release: Release) -> None:
    marker = release.folder.stat().st_ino
    assert sealed(tmp_path / "made").folder.stat().st_ino == marker
    assert [p.name for p in (tmp_path / "made").iterdir()] == [release.id]


def test_compiled_code_can_not_be_left_in_a_release(release: Release) -> None:
    with pytest.raises(OSError, match="__pycache__"):
        (release.folder / "1" / "__pycache__").mkdir(parents=True)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("nonsense {", "not a model configuration"),
        ('name: "mine"\nbackend: "python"', "has a name"),
        (None, "not a model"),
    ],
)
def test_a_bundle_without_a_proper_configuration_is_refused(tmp_path: Path, config: str | None, says: str) -> None:
    folder = tmp_path / "bundle"
    (folder / "1").mkdir(parents=True)
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    with pytest.raises(ReleaseError, match=says) as told:
        seal(folder, slot="synth-high", family="x", data_digest="", rebuild={})
    assert "\n" not in str(told.value)


def test_a_link_is_refused(tmp_path: Path, release: Release) -> None:
    (release.folder / "1" / "params.json").rename(tmp_path / "params.json")
    (release.folder / "1" / "params.json").symlink_to(tmp_path / "params.json")
    with pytest.raises(ReleaseError, match=r"params\.json is a link"):
        verify(release.folder)


# ---- verifying


def test_every_changed_file_is_named(release: Release) -> None:
    for path in release.manifest.files:
        file = release.folder / path
        good = file.read_bytes()
        file.write_bytes(good + b" ")
        with pytest.raises(ReleaseError, match=f"{path} was changed"):
            verify(release.folder)
        file.write_bytes(good)
    verify(release.folder)


def test_every_missing_file_is_named(release: Release) -> None:
    for path in release.manifest.files:
        file = release.folder / path
        good = file.read_bytes()
        file.unlink()
        with pytest.raises(ReleaseError, match=f"{path} is missing"):
            verify(release.folder)
        file.write_bytes(good)
    verify(release.folder)


@pytest.mark.parametrize("extra", ["1/model.pyc", "2/model.py", "notes.txt", ".hidden"])
def test_an_extra_file_is_named(release: Release, extra: str) -> None:
    (release.folder / extra).parent.mkdir(exist_ok=True)
    (release.folder / extra).write_text("x")
    with pytest.raises(ReleaseError, match=f"{extra} is extra"):
        verify(release.folder)


def test_a_changed_manifest_is_named(release: Release) -> None:
    manifest = release.folder / MANIFEST
    content = json.loads(manifest.read_bytes())
    content["data_digest"] = "0" * 64
    manifest.write_text(json.dumps(content))
    with pytest.raises(ReleaseError, match=r"manifest\.json was changed"):
        verify(release.folder)
    manifest.unlink()
    with pytest.raises(ReleaseError, match=r"manifest\.json is missing"):
        verify(release.folder)


@given(data=st.binary(max_size=300))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_garbled_manifest_is_one_line(release: Release, data: bytes) -> None:
    copy = release.folder.with_name("garbled")
    shutil.rmtree(copy, ignore_errors=True)
    (copy / "1").mkdir(parents=True)
    (copy / MANIFEST).write_bytes(data)
    with pytest.raises(ReleaseError) as told:
        verify(copy)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "1/../../outside"])
def test_a_manifest_that_leaves_its_folder_is_refused(release: Release, path: str) -> None:
    manifest = release.folder / MANIFEST
    content = json.loads(manifest.read_bytes())
    content["files"][path] = "0" * 64
    manifest.write_text(json.dumps(content))
    with pytest.raises(ReleaseError, match="leaves the release's folder"):
        verify(release.folder)


def test_signatures_are_compared_tensor_by_tensor(release: Release) -> None:
    mine = release.manifest.signature
    assert signature_difference(mine, mine) is None
    fewer = releases.Signature(mine.inputs[1:], mine.outputs, mine.max_batch_size)
    assert signature_difference(fewer, mine) == "input PRICE: absent in the candidate, FP32 [1] in the champion"
    other = [releases.TensorSpec("PATHS", "FP64", [-1, -1]), mine.outputs[1]]
    told = signature_difference(releases.Signature(mine.inputs, other, 8), mine)
    assert told == "output PATHS: FP64 [-1, -1] in the candidate, FP32 [-1, -1] in the champion"


# ---- publishing and fetching


def test_a_release_goes_out_and_comes_back(tmp_path: Path, release: Release) -> None:
    store = Memory()
    publish(store, release)
    assert set(store.kept) == {f"releases/{release.sha256}/{path}" for path in (*release.manifest.files, MANIFEST)}
    got = fetch(store, release.id, tmp_path / "models", sha256=release.sha256)
    assert got.folder == tmp_path / "models" / release.id
    assert got.sha256 == release.sha256
    calls = store.calls
    assert fetch(store, release.id, tmp_path / "models", sha256=release.sha256) == got
    assert store.calls == calls  # it was there and whole: the store was not asked
    publish(store, release)
    assert store.calls == calls + 1  # is it there?


def test_an_upload_cut_off_anywhere_is_never_a_release(tmp_path: Path, release: Release) -> None:
    whole = Memory()
    publish(whole, release)
    for nth in range(1, whole.calls + 1):
        store = Memory(fail_at=nth)
        with pytest.raises(ObjectStoreError):
            publish(store, release)
        assert not releases.is_published(store, release.sha256)
        with pytest.raises(ObjectMissing):
            fetch(store, release.id, tmp_path / "models", sha256=release.sha256)
        publish(store, release)  # a rerun finishes the work
        assert store.kept == whole.kept
    assert not list((tmp_path / "models").iterdir())


def test_a_fetch_cut_off_anywhere_leaves_nothing(tmp_path: Path, release: Release) -> None:
    store = Memory()
    publish(store, release)
    for nth in range(1, len(store.kept) + 1):
        models = tmp_path / f"models-{nth}"
        store.calls, store.fail_at = 0, nth
        with pytest.raises(ObjectStoreError):
            fetch(store, release.id, models, sha256=release.sha256)
        assert list(models.iterdir()) == []
        assert fetch(store, release.id, models, sha256=release.sha256).id == release.id
        assert [p.name for p in models.iterdir()] == [release.id]


def test_every_object_changed_in_the_store_is_named(tmp_path: Path, release: Release) -> None:
    store = Memory()
    publish(store, release)
    for path in (*release.manifest.files, MANIFEST):
        key = f"releases/{release.sha256}/{path}"
        good, store.kept[key] = store.kept[key], b"changed"
        with pytest.raises(ReleaseError, match=path):
            fetch(store, release.id, tmp_path / "models", sha256=release.sha256)
        store.kept[key] = good
    assert not list((tmp_path / "models").iterdir())


def test_an_object_that_is_not_the_releases_is_not_published_over(release: Release) -> None:
    store = Memory()
    store.kept[f"releases/{release.sha256}/1/params.json"] = b"{}"
    with pytest.raises(ReleaseError, match=r"params\.json in the object store is not the release's"):
        publish(store, release)
    assert not releases.is_published(store, release.sha256)


def test_a_changed_release_is_not_published(release: Release) -> None:
    (release.folder / "1" / "params.json").write_text("{}")
    store = Memory()
    with pytest.raises(ReleaseError, match=r"params\.json was changed"):
        publish(store, release)
    assert store.kept == {}


def test_a_damaged_local_copy_is_set_aside_and_fetched_anew(tmp_path: Path, release: Release) -> None:
    store = Memory()
    publish(store, release)
    models = tmp_path / "models"
    fetch(store, release.id, models, sha256=release.sha256)
    for _ in range(2):
        (models / release.id / "1" / "params.json").write_text("{}")
        assert fetch(store, release.id, models, sha256=release.sha256).id == release.id
    assert {p.name for p in models.iterdir()} == {release.id, f".damaged.{release.id}"}


def test_a_wrong_digest_is_refused(tmp_path: Path, release: Release) -> None:
    store = Memory()
    publish(store, release)
    with pytest.raises(ObjectMissing):
        fetch(store, release.id, tmp_path / "models", sha256="0" * 64)
    fetch(store, release.id, tmp_path / "models", sha256=release.sha256)
    other = sealed(tmp_path / "made", sigma_scale=2.0)
    publish(store, other)
    with pytest.raises(ReleaseError, match="not to the expected"):
        fetch(store, release.id, tmp_path / "elsewhere", sha256=other.sha256)


def test_what_killed_fetches_left_is_swept(tmp_path: Path, release: Release) -> None:
    store = Memory()
    publish(store, release)
    left = tmp_path / "models" / f".staging.{release.id}.999999999.abcd"
    left.mkdir(parents=True)
    fetch(store, release.id, tmp_path / "models", sha256=release.sha256)
    assert [p.name for p in (tmp_path / "models").iterdir()] == [release.id]


def test_two_fetches_at_once_agree(tmp_path: Path, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other fetch finishes between our download and our rename."""
    store = Memory()
    publish(store, release)
    models = tmp_path / "models"
    move: Callable[..., bool] = bundle.move_folder

    def late(source: Path, target: Path) -> bool:
        shutil.copytree(source, target, dirs_exist_ok=True)
        return move(source, target)

    monkeypatch.setattr(shelf, "move_folder", late)
    assert fetch(store, release.id, models, sha256=release.sha256).id == release.id
    assert [p.name for p in models.iterdir()] == [release.id]


@pytest.mark.slow
def test_on_a_real_object_store(tmp_path: Path, release: Release, objects: Any) -> None:
    publish(objects, release)
    publish(objects, release)
    got = fetch(objects, release.id, tmp_path / "models", sha256=release.sha256)
    assert got.manifest == release.manifest
    with pytest.raises(ObjectMissing):
        fetch(objects, "synth-high-" + "0" * 12, tmp_path / "models", sha256="0" * 64)
