"""A sealed bundle: a folder named by its content, in which no changed byte goes unseen.

A release is a folder ``<slot>-<12 hex>`` whose ``1/manifest.json`` lists every other file with its sha256. The
manifest's own sha256 is the release's full name: the same content always has the same name.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from infra.releases.errors import ReleaseError, one_line
from infra.releases.signature import Signature, read_signature
from serving.types import ReleaseId, Sha256, SlotName

MANIFEST = "1/manifest.json"
_GUARD = "1/__pycache__"
_GUARD_TEXT = b"A file of this name keeps Triton's Python from leaving compiled code in a sealed folder.\n"
_FORMAT = 1


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
    sealed = read(folder)
    final = folder.with_name(sealed.id)
    if not move_folder(folder, final):
        shutil.rmtree(folder)
    return verify(final)


def verify(folder: Path) -> Release:
    """The release in `folder`, every file hashed; ReleaseError names the first that changed, is missing or extra."""
    release = read(folder)
    if folder.name != release.id:
        raise ReleaseError(f"{folder.name}: {MANIFEST} was changed: by its content this is {release.id}")
    check_files(release)
    return release


def read(folder: Path) -> Release:
    """What the manifest in `folder` says, whatever the folder is called; no other file is looked at."""
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError:
        raise ReleaseError(f"{folder.name}: {MANIFEST} is missing; a release is made by sealing a bundle") from None
    manifest = decode(data, folder.name)
    digest = Sha256(hashlib.sha256(data).hexdigest())
    return Release(release_id(manifest.slot, digest), digest, manifest.slot, folder, manifest)


def release_id(slot: str, sha256: str) -> ReleaseId:
    """The name of a release: its slot and the first 12 hex digits of its manifest's sha256."""
    return ReleaseId(f"{slot}-{sha256[:12]}")


def _encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def decode(data: bytes, name: str) -> Manifest:
    """A manifest from its bytes; ReleaseError, under `name`, when they are none or it leaves the release's folder."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{name}: {MANIFEST} is not a manifest: {one_line(error)}") from None
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


def check_files(release: Release) -> None:
    """Hash every file; ReleaseError names the first that changed, is missing or extra."""
    expected, folder = release.manifest.files, release.folder
    found = set(_files(folder)) - {MANIFEST}
    for path in sorted({*expected, *found}):
        if path not in found:
            raise ReleaseError(f"{release.id}: {path} is missing")
        if path not in expected:
            raise ReleaseError(f"{release.id}: {path} is extra: the manifest does not list it")
        if _digest(folder / path) != expected[path]:
            raise ReleaseError(f"{release.id}: {path} was changed: its sha256 is not the manifest's")


def move_folder(source: Path, target: Path) -> bool:
    """Rename a folder into place; False when another got there first."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    return True


def _digest(path: Path) -> Sha256:
    return Sha256(hashlib.sha256(path.read_bytes()).hexdigest())
