"""Retrain: fit a model on what ends before the split, bundle it as a release, and say so in MLflow and the ledger.

The release is named by its content, every step checks what is there already, and the ledger's entry comes last: a
run that was cut off is finished by running it again, and nothing is done twice.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from flows import training
from flows.progress import Progress, quiet
from flows.split import Split, make_split, when
from flows.steps import Steps, in_turn
from flows.training import FirstLook
from infra.ledger import open_ledger
from infra.objects import object_store
from infra.prices import PriceStore, price_store
from infra.releases import Release, publish, seal
from infra.settings import Settings
from infra.tracking import CHALLENGER, RELEASE_TAG, SHA_TAG, Tracker, tracker
from serving.errors import UserError
from triton_models.synth_paths.release import export
from triton_models.synth_paths.train import FAMILY, FitError, Model, Params, fit

MODELS: tuple[Model, ...] = ("gaussian", "garch-t")


class RetrainResult(msgspec.Struct, frozen=True):
    """What came of a training."""

    slot: str
    release: str
    sha256: str
    model: str
    sigma_scale: float
    run_id: str
    run_url: str
    seconds: float
    existing: bool
    """The ledger knew this very release before: same data, same numbers."""
    data_digest: str
    cut_utc: str
    inner: dict[str, float]
    """Scores of the inner validation, on training sessions only."""
    notes: dict[str, str]
    plots: dict[str, bytes] = {}

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, without the plots."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if name != "plots"}


def retrain(
    settings: Settings,
    slot: str,
    model: Model = "garch-t",
    sigma_scale: float = 1.0,
    *,
    seed: int = 0,
    actor: str = "retrain",
    steps: Steps = in_turn,
    progress: Progress = quiet,
) -> RetrainResult:
    """Train, publish, track and record a release of the slot.

    `sigma_scale` multiplies the model's sigma: for planting a release that is known to be wrong. Raises UserError when
    the data allow no fit, and the part's own error when S3 or MLflow does not work.
    """
    began = time.perf_counter()
    if model not in MODELS:
        raise UserError(f"unknown model {model!r}; known: {', '.join(MODELS)}", exit_code=2)
    following = steps("reach MLflow", lambda: tracker(settings), retries=2)
    store = price_store(settings)
    split = steps("split", lambda: make_split(store, slot), retries=2)
    recipe = _Recipe(slot, model, sigma_scale, seed)
    made = steps("fit", lambda: _fit(store, split, recipe))
    look = steps("inner validation", lambda: _inner(store, split, recipe, progress))
    release = steps("bundle", lambda: _bundle(settings, split, recipe, made))
    steps("publish to S3", lambda: publish(object_store(settings), release), retries=2)
    pictures = training.pictures(split, made.params, look)
    run_id = steps(
        "log to MLflow",
        lambda: _log(following, split=split, recipe=recipe, made=made, look=look, release=release, pictures=pictures),
        retries=2,
    )
    with closing(open_ledger(settings)) as ledger:
        known = {entry.sha256: entry for entry in ledger.releases(slot)}
        existing = release.sha256 in known
        steps(
            "write to the ledger",
            lambda: ledger.record_release(
                sha256=release.sha256, id=release.id, slot=release.slot, family=FAMILY, data_digest=made.digest,
                actor=actor, mlflow_run_id=run_id, rebuild=release.manifest.rebuild,
            ),
        )  # fmt: skip
    return RetrainResult(
        slot, release.id, release.sha256, model, sigma_scale, run_id, following.link(slot, run_id),
        time.perf_counter() - began, existing, made.digest, when(split.cut), look.metrics(), made.params.notes,
        pictures,
    )  # fmt: skip


class _Recipe(msgspec.Struct, frozen=True):
    slot: str
    model: Model
    sigma_scale: float
    seed: int


class _Made(msgspec.Struct, frozen=True):
    params: Params
    digest: str


def _fit(store: PriceStore, split: Split, recipe: _Recipe, until: int | None = None) -> _Made:
    data = training.training_data(store, split.cut if until is None else until)
    try:
        params = fit(recipe.slot, recipe.model, data, sigma_scale=recipe.sigma_scale, seed=recipe.seed)
    except FitError as error:
        raise UserError(f"slot {recipe.slot}: {recipe.model} cannot be fitted: {error}") from None
    return _Made(params, training.digest(data))


def _inner(store: PriceStore, split: Split, recipe: _Recipe, progress: Progress) -> FirstLook:
    _, begins = training.inner_cut(split)
    return training.first_look(store, split, _fit(store, split, recipe, begins).params, progress)


def _bundle(settings: Settings, split: Split, recipe: _Recipe, made: _Made) -> Release:
    """Write the files beside where Triton finds them, and seal them under their own name."""
    folder = settings.paths.models / f".building.{recipe.slot}.{os.getpid()}"
    _sweep(settings.paths.models, recipe.slot)
    rebuild = {"flow": "retrain", **msgspec.to_builtins(recipe), "cut": split.cut}
    try:
        export(made.params, folder)
        return seal(folder, slot=recipe.slot, family=FAMILY, data_digest=made.digest, rebuild=rebuild)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(models: Path, slot: str) -> None:
    for left in models.glob(f".building.{slot}.*"):
        if not Path(f"/proc/{left.suffix[1:]}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _log(
    following: Tracker, *, split: Split, recipe: _Recipe, made: _Made, look: FirstLook, release: Release,
    pictures: dict[str, bytes],
) -> str:  # fmt: skip
    """The training run, whole, and the registered version; what is there from an earlier try is taken up again."""
    tags = {
        SHA_TAG: release.sha256, RELEASE_TAG: release.id, "headframe.kind": "retrain",
        "headframe.data_digest": made.digest,
    }  # fmt: skip
    slot = recipe.slot
    run_id = following.find_run(slot, release.sha256)
    params = {
        **msgspec.to_builtins(recipe), "family": FAMILY, "data_digest": made.digest, "cut": split.cut,
        "cut_utc": when(split.cut), "train_sessions": len(split.train), "held_out_sessions": len(split.held_out),
        "inner_begins_utc": when(look.begins), **training.model_params(made.params),
    }  # fmt: skip
    with following.run(slot, f"{recipe.model} {release.id}", tags, run_id=run_id) as run:
        run.params(params)
        run.metrics(look.metrics())
        run.document("notes.json", made.params.notes)
        for name, png in pictures.items():
            run.image(name, png)
        following.register(release, run.id, {"model": recipe.model, "data_digest": made.digest})
        following.point(slot, CHALLENGER, release.id)
        return run.id
