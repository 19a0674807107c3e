"""Releases in the object store: published once, whole or not at all, and fetched to local disk."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from infra.releases.bundle import MANIFEST, Release, check_files, decode, move_folder, read, verify
from infra.releases.errors import ReleaseError

if TYPE_CHECKING:
    from infra.objects import ObjectStore


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
        check_files(_expect(read(staging), release_id, sha256))
        move_folder(staging, final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return _expect(verify(final), release_id, sha256)


def _expect(release: Release, release_id: str, sha256: str) -> Release:
    if release.sha256 != sha256 or release.id != release_id:
        raise ReleaseError(f"{release_id}: the manifest hashes to {release.sha256}, not to the expected {sha256}")
    return release


def _download(objects: ObjectStore, name: str, staging: Path, sha256: str) -> None:
    data = objects.get(_key(sha256, MANIFEST))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ReleaseError(f"{name}: {MANIFEST} in the object store was changed: its sha256 is not {sha256}")
    for path in (MANIFEST, *decode(data, name).files):
        target = staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data if path == MANIFEST else objects.get(_key(sha256, path)))


def _put_once(objects: ObjectStore, key: str, data: bytes, digest: str) -> None:
    if hashlib.sha256(data).hexdigest() != digest:
        raise ReleaseError(f"{key} was changed while it was being published")
    if not objects.put(key, data, only_if_absent=True) and hashlib.sha256(objects.get(key)).hexdigest() != digest:
        raise ReleaseError(f"{key} in the object store is not the release's: delete it there and publish again")


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
