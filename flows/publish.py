"""Publish: take in a release that was made outside `retrain`, in a notebook say."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from infra.ledger import ReleaseEntry, open_ledger
from infra.objects import object_store
from infra.releases import publish, verify
from infra.settings import Settings


def publish_folder(
    settings: Settings, folder: Path, *, actor: str = "operator", mlflow_run_id: str | None = None
) -> ReleaseEntry:
    """Check a sealed release, put it into the object store, and record it; again does nothing.

    Raises ReleaseError naming the file that is not what the manifest says.
    """
    release = verify(folder.absolute())
    publish(object_store(settings), release)
    with closing(open_ledger(settings)) as ledger:
        return ledger.record_release(
            sha256=release.sha256, id=release.id, slot=release.slot, family=release.manifest.family,
            data_digest=release.manifest.data_digest, actor=actor, mlflow_run_id=mlflow_run_id,
            rebuild=release.manifest.rebuild,
        )  # fmt: skip
