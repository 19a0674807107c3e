"""Where releases can answer again: on the running Triton if it has them, else on a throw-away one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.objects import object_store
from infra.ports import endpoints
from infra.releases import ReleaseError, fetch, verify
from infra.settings import Settings
from infra.triton import Triton, TritonError, throwaway
from serving.errors import UserError
from serving.types import ReleaseId


@dataclass
class Places:
    """The gRPC address of each release, or why there is none."""

    address: dict[ReleaseId, str] = field(default_factory=dict)
    missing: dict[ReleaseId, str] = field(default_factory=dict)


@contextmanager
def placed(settings: Settings, releases: Iterable[ReleaseId]) -> Iterator[Places]:
    """Somewhere to ask each of the releases, for as long as the block lasts; the running Triton loads nothing new."""
    places, wanted = Places(), list(dict.fromkeys(releases))
    with ExitStack() as stack:
        live = endpoints(settings).triton_grpc
        if live is not None and wanted:
            ready = _loaded(live)
            places.address = {release: live for release in wanted if release in ready}
        others = [release for release in wanted if release not in places.address]
        if others:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headframe-replay-")))
            others = [release for release in others if _bring(settings, release, scratch / "models", places)]
        if others:
            try:
                triton = stack.enter_context(throwaway(settings.venv_triton, scratch / "models", scratch / "triton"))
            except (TritonError, OSError) as error:
                places.missing |= dict.fromkeys(others, f"no throw-away Triton to load it into: {error}")
                others = []
            for release in others:
                _load(triton, release, places)
        yield places


def _loaded(address: str) -> set[str]:
    with closing(Triton(address)) as triton:
        try:
            return triton.loaded() if triton.ready() else set()
        except TritonError:
            return set()


def _load(triton: Triton, release: ReleaseId, places: Places) -> None:
    try:
        triton.load(release)
    except TritonError as error:
        places.missing[release] = str(error)
    else:
        places.address[release] = triton.address


def _bring(settings: Settings, release: ReleaseId, models: Path, places: Places) -> bool:
    """The release's files below `models`: a copy of this home's, else from the object store."""
    models.mkdir(parents=True, exist_ok=True)
    here = settings.paths.models / release
    try:
        verify(here)
        shutil.copytree(here, models / release)
    except (ReleaseError, OSError):
        try:
            _fetch(settings, release, models)
        except UserError as error:
            places.missing[release] = str(error)
            return False
    return True


def _fetch(settings: Settings, release: ReleaseId, models: Path) -> None:
    from infra.ledger import open_ledger

    with closing(open_ledger(settings)) as ledger:
        sha256 = ledger.release(release).sha256
    fetch(object_store(settings), release, models, sha256=sha256)
