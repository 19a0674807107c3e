"""Releases: model bundles named by their content, sealed here, kept in the object store, fetched to local disk.

A release is a folder ``<slot>-<12 hex>`` whose ``1/manifest.json`` lists every other file with its sha256. The
manifest's own sha256 is the release's full name: the same content always has the same name, and a changed byte never
goes unseen.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from serving.errors import UserError
from serving.types import ReleaseId, Sha256, SlotName

if TYPE_CHECKING:
    from infra.objects import ObjectStore

MANIFEST = "1/manifest.json"
_GUARD = "1/__pycache__"
_GUARD_TEXT = b"A file of this name keeps Triton's Python from leaving compiled code in a sealed folder.\n"
_FORMAT = 1


class ReleaseError(UserError):
    """A release that is not what its name says: the line names the file."""


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


class Manifest(msgspec.Struct, frozen=True):
    """``1/manifest.json``. It holds no time and no machine, so the same content has the same digest."""

    format: int
    slot: SlotName
    family: str
    files: dict[str, Sha256]
    """Every file of the bundle but this one, by path below the release's folder."""
    signature: Signature
    data_digest: str
    """sha256 of the training data; empty when nothing was fitted."""
    rebuild: dict[str, Any]
    """What to run to get the same bundle again."""


@dataclass(frozen=True)
class Release:
    """A verified release on local disk."""

    id: ReleaseId
    sha256: Sha256
    slot: SlotName
    folder: Path
    manifest: Manifest


def seal(folder: Path, *, slot: str, family: str, data_digest: str, rebuild: dict[str, Any]) -> Release:
    """Write the manifest of a finished bundle and rename `folder` to the release's id, beside where it was.

    When that release is already there and whole, `folder` is removed and the other returned. Raises ReleaseError.
    """
    if (folder / _GUARD).is_dir():
        shutil.rmtree(folder / _GUARD)
    (folder / _GUARD).write_bytes(_GUARD_TEXT)  # its embedded interpreter heeds no PYTHONDONTWRITEBYTECODE
    files = {path: _digest(folder / path) for path in _files(folder) if path != MANIFEST}
    manifest = Manifest(_FORMAT, SlotName(slot), family, files, read_signature(folder), data_digest, rebuild)
    (folder / MANIFEST).write_bytes(_encode(manifest))
    sealed = _read(folder)
    final = folder.with_name(sealed.id)
    if not _move(folder, final):
        shutil.rmtree(folder)
    return verify(final)


def verify(folder: Path) -> Release:
    """The release in `folder`, every file hashed; ReleaseError names the first that changed, is missing or extra."""
    release = _read(folder)
    if folder.name != release.id:
        raise ReleaseError(f"{folder.name}: {MANIFEST} was changed: by its content this is {release.id}")
    _check_files(release)
    return release


def read_signature(folder: Path) -> Signature:
    """The tensors that ``config.pbtxt`` declares; ReleaseError when it is missing or no model configuration."""
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    path = folder / "config.pbtxt"
    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ReleaseError(f"{path} is not a model configuration: {_line(error)}") from None
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


def publish(objects: ObjectStore, release: Release) -> None:
    """Put a release into the object store, its manifest last, so that a cut-off upload is never seen as a release.

    Each object is written once and never replaced; publishing again finishes what was cut off, or does nothing. Raises
    ReleaseError when the local files or an object there are not the release's.
    """
    verify(release.folder)
    if is_published(objects, release.sha256):
        return
    for path, digest in sorted(release.manifest.files.items()):
        _put_once(objects, _key(release.sha256, path), (release.folder / path).read_bytes(), digest)
    _put_once(objects, _key(release.sha256, MANIFEST), (release.folder / MANIFEST).read_bytes(), release.sha256)


def is_published(objects: ObjectStore, sha256: str) -> bool:
    """Whether the whole release is in the object store."""
    return objects.exists(_key(sha256, MANIFEST))


def fetch(objects: ObjectStore, release_id: str, models: Path, *, sha256: str) -> Release:
    """The release below `models`, brought from the object store unless it is there and whole.

    It is staged beside, every hash is checked, and then it is renamed into place, so that Triton sees all of it or
    nothing. A local copy that was damaged is set aside as ``.damaged.<id>`` and fetched anew. Raises ReleaseError when
    what the store holds is not the release, and the store's own errors.
    """
    final = models / release_id
    try:
        if final.is_dir():
            return _expect(verify(final), release_id, sha256)
    except ReleaseError:
        _set_aside(final)
    models.mkdir(parents=True, exist_ok=True)
    _sweep(models, release_id)
    staging = models / f".staging.{release_id}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        _download(objects, release_id, staging, sha256)
        _check_files(_expect(_read(staging), release_id, sha256))
        _move(staging, final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return _expect(verify(final), release_id, sha256)


# ------------------------------------------------------------------------------------------------------------ parts


def _read(folder: Path) -> Release:
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError:
        raise ReleaseError(f"{folder.name}: {MANIFEST} is missing; a release is made by sealing a bundle") from None
    manifest = _decode(data, folder.name)
    digest = Sha256(hashlib.sha256(data).hexdigest())
    return Release(release_id(manifest.slot, digest), digest, manifest.slot, folder, manifest)


def release_id(slot: str, sha256: str) -> ReleaseId:
    """The name of a release: its slot and the first 12 hex digits of its manifest's sha256."""
    return ReleaseId(f"{slot}-{sha256[:12]}")


def _encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def _decode(data: bytes, name: str) -> Manifest:
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{name}: {MANIFEST} is not a manifest: {_line(error)}") from None
    if manifest.format != _FORMAT:
        raise ReleaseError(f"{name}: {MANIFEST} has format {manifest.format}; this version reads {_FORMAT}")
    for path in manifest.files:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ReleaseError(f"{name}: {MANIFEST} lists {path!r}, which leaves the release's folder")
    return manifest


def _files(folder: Path) -> list[str]:
    """Every file below, as posix paths; a link is refused, since it may show other bytes tomorrow."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ReleaseError(f"{folder.name}: {name} is a link; a release holds plain files only")
        if path.is_file():
            found.append(name)
    return found


def _check_files(release: Release) -> None:
    expected, folder = release.manifest.files, release.folder
    found = set(_files(folder)) - {MANIFEST}
    for path in sorted({*expected, *found}):
        if path not in found:
            raise ReleaseError(f"{release.id}: {path} is missing")
        if path not in expected:
            raise ReleaseError(f"{release.id}: {path} is extra: the manifest does not list it")
        if _digest(folder / path) != expected[path]:
            raise ReleaseError(f"{release.id}: {path} was changed: its sha256 is not the manifest's")


def _expect(release: Release, release_id: str, sha256: str) -> Release:
    if release.sha256 != sha256 or release.id != release_id:
        raise ReleaseError(f"{release_id}: the manifest hashes to {release.sha256}, not to the expected {sha256}")
    return release


def _download(objects: ObjectStore, name: str, staging: Path, sha256: str) -> None:
    data = objects.get(_key(sha256, MANIFEST))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ReleaseError(f"{name}: {MANIFEST} in the object store was changed: its sha256 is not {sha256}")
    for path in (MANIFEST, *_decode(data, name).files):
        target = staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data if path == MANIFEST else objects.get(_key(sha256, path)))


def _put_once(objects: ObjectStore, key: str, data: bytes, digest: str) -> None:
    if hashlib.sha256(data).hexdigest() != digest:
        raise ReleaseError(f"{key} was changed while it was being published")
    if not objects.put(key, data, only_if_absent=True) and hashlib.sha256(objects.get(key)).hexdigest() != digest:
        raise ReleaseError(f"{key} in the object store is not the release's: delete it there and publish again")


def _move(source: Path, target: Path) -> bool:
    """Rename a folder into place; False when another got there first."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    return True


def _set_aside(final: Path) -> None:
    aside = final.with_name(f".damaged.{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    final.rename(aside)


def _sweep(models: Path, release_id: str) -> None:
    """Remove what fetches of this release left behind when their process was killed."""
    for left in models.glob(f".staging.{release_id}.*"):
        pid = left.name.split(".")[-2]
        if not (pid.isdigit() and psutil.pid_exists(int(pid))):
            shutil.rmtree(left, ignore_errors=True)


def _key(sha256: str, path: str) -> str:
    return f"releases/{sha256}/{path}"


def _digest(path: Path) -> Sha256:
    return Sha256(hashlib.sha256(path.read_bytes()).hexdigest())


def _spec(spec: TensorSpec | None) -> str:
    return "absent" if spec is None else f"{spec.datatype} {spec.shape}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
