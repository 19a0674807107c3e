"""Bring a release to the live Triton: files first, then load, then warm-up. Nothing routes to it yet."""

from __future__ import annotations

from contextlib import closing

from infra.ledger import ReleaseEntry
from infra.objects import object_store
from infra.ports import endpoints, need
from infra.releases import ReleaseError, fetch
from infra.settings import Settings
from infra.triton import Triton, TritonError, warm
from serving.errors import UserError


class Unfit(UserError):
    """The release itself is at fault: its files, its load, or its first answers."""


def live_triton(settings: Settings) -> Triton:
    """The Triton that answers validators."""
    return Triton(need(endpoints(settings).triton_grpc, "Triton"))


def bring(settings: Settings, entry: ReleaseEntry) -> None:
    """Fetch, load and warm a release; again when it is there is quick and harmless.

    Raises Unfit when the release is at fault, and the part's own error when S3 or Triton does not answer.
    """
    try:
        release = fetch(object_store(settings), entry.id, settings.paths.models, sha256=entry.sha256)
    except ReleaseError as error:
        raise Unfit(str(error)) from None
    with closing(live_triton(settings)) as triton:
        try:
            if entry.id not in triton.loaded():
                triton.load(entry.id)
            warm(triton, release, rounds=1)
        except TritonError as error:
            if not triton.ready():
                raise
            raise Unfit(str(error)) from None


def loaded(settings: Settings) -> set[str]:
    """The releases that the live Triton can answer with."""
    with closing(live_triton(settings)) as triton:
        return triton.loaded()
