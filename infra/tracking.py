"""MLflow: runs with parameters, metrics and plots, and one registered model per slot with its aliases.

The ledger, not an alias, is the authority on what is live; an alias follows and may lag.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.ports import endpoints, need
from infra.releases import Release, verify
from infra.settings import Settings
from infra.stack.commands import mlflow_client_env
from serving.errors import UserError

CHAMPION, CHALLENGER = "champion", "challenger"
SHA_TAG = "headframe.release_sha256"
RELEASE_TAG = "headframe.release"
_LIMITS = {
    # a server that is down is told in seconds, not after MLflow's usual minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_PATIENCE_S = 20.0
"""How long a server that takes the connection may take to answer: a busy one is not an absent one."""


class TrackingError(UserError):
    """MLflow is down or refuses."""


def tracker(settings: Settings) -> Tracker:
    """The tracking server of these settings; raises TrackingError when it does not answer."""
    found = endpoints(settings)
    uri = need(found.mlflow, "MLflow")
    env = mlflow_client_env(settings.s3, need(found.s3, "the object store"))
    return Tracker(uri, env)


class Tracker:
    """One MLflow server. Every failure is a TrackingError of one line."""

    def __init__(self, uri: str, env: Mapping[str, str]) -> None:
        self.uri = uri
        _answers(uri)
        os.environ.update({**env, **_LIMITS, "MLFLOW_TRACKING_URI": uri})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own imports; nothing a user of Headframe can mend
            from mlflow import MlflowClient
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)

    # runs

    def find_run(self, slot: str, sha256: str) -> str | None:
        """The run that trained a release, finished or not, if there is one."""
        with self._told():
            experiment = self._client.get_experiment_by_name(slot)
            if experiment is None:
                return None
            found = self._client.search_runs(
                [experiment.experiment_id], f"tags.`{SHA_TAG}` = '{sha256}'", max_results=1
            )
            return str(found[0].info.run_id) if found else None

    @contextmanager
    def run(self, slot: str, name: str, tags: Mapping[str, str], *, run_id: str | None = None) -> Iterator[Run]:
        """A run of the slot's experiment, made or taken up again by `run_id`; FAILED when the block raises.

        A run that was finished before stays so, whatever becomes of the addition.
        """
        with self._told():
            if run_id is None:
                made = self._client.create_run(self._experiment(slot), tags=dict(tags), run_name=name)
                run_id = str(made.info.run_id)
            finished = self._client.get_run(run_id).info.status == "FINISHED"
        run = Run(self._client, run_id)
        if finished:
            with self._told():
                yield run
            return
        try:
            with self._told():
                yield run
                self._client.set_terminated(run_id, "FINISHED")
        except BaseException:
            try:
                self._client.set_terminated(run_id, "FAILED")
            except Exception:  # the first failure is the one to tell; MLflow itself may be what failed
                logging.getLogger(__name__).warning("MLflow run %s could not be marked failed", run_id)
            raise

    def link(self, slot: str, run_id: str) -> str:
        """The run's page."""
        with self._told():
            return f"{self.uri}/#/experiments/{self._experiment(slot)}/runs/{run_id}"

    # the registry

    def register(self, release: Release, run_id: str, params: Mapping[str, str]) -> str:
        """Store the release's files as a logged model of the run, check them, and register a version of the slot.

        Gives the version's number; a release that has a version keeps it.
        """
        slot = str(release.slot)
        with self._told():
            known = self._version(slot, str(release.id))
            if known is not None:
                return known
            experiment = self._client.get_run(run_id).info.experiment_id
            model = self._logged_model(experiment, run_id, release, params)
            self._client.log_model_artifacts(model.model_id, str(release.folder))
            self._check_upload(model.model_id, release)
            self._client.finalize_logged_model(model.model_id, "READY")
            self._link_output(run_id, model.model_id)
            self._ensure_registered(slot)
            version = self._client.create_model_version(
                slot, f"models:/{model.model_id}", run_id=run_id, model_id=model.model_id,
                tags={SHA_TAG: str(release.sha256), RELEASE_TAG: str(release.id)},
            )  # fmt: skip
            return str(version.version)

    def point(self, slot: str, alias: str, release_id: str) -> bool:
        """Let an alias of the slot's model name a release; False when the release was never registered."""
        with self._told():
            version = self._version(slot, release_id)
            if version is None:
                return False
            if self.pointed(slot, alias) != release_id:
                self._client.set_registered_model_alias(slot, alias, version)
            return True

    def pointed(self, slot: str, alias: str) -> str | None:
        """The release that an alias names now."""
        from mlflow.exceptions import MlflowException

        with self._told():
            try:
                version = self._client.get_model_version_by_alias(slot, alias)
            except MlflowException as error:
                if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                    return None
                raise
            return str(version.tags.get(RELEASE_TAG, "")) or None

    def _version(self, slot: str, release_id: str) -> str | None:
        query = f"name = '{slot}' and tags.`{RELEASE_TAG}` = '{release_id}'"
        found = self._client.search_model_versions(query, max_results=1)
        return str(found[0].version) if found else None

    def _logged_model(self, experiment: str, run_id: str, release: Release, params: Mapping[str, str]) -> Any:
        """The release's logged model: the one that a cut-off try left, or a new one."""
        left = self._client.search_logged_models([experiment], f"tags.`{SHA_TAG}` = '{release.sha256}'", max_results=1)
        if left:
            return left[0]
        return self._client.create_logged_model(
            experiment, name=str(release.id), source_run_id=run_id, model_type="triton", params=dict(params),
            tags={SHA_TAG: str(release.sha256), RELEASE_TAG: str(release.id)},
        )  # fmt: skip

    def _ensure_registered(self, slot: str) -> None:
        if not self._client.search_registered_models(f"name = '{slot}'", max_results=1):
            self._client.create_registered_model(slot, description=f"What answers the slot {slot}.")

    def _experiment(self, slot: str) -> str:
        found = self._client.get_experiment_by_name(slot)
        return str(found.experiment_id if found else self._client.create_experiment(slot))

    def _check_upload(self, model_id: str, release: Release) -> None:
        """Fetch the files back and compare every hash: a cut upload is never registered."""
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / str(release.id)
            download_artifacts(artifact_uri=f"models:/{model_id}", dst_path=str(target), tracking_uri=self.uri)
            back = verify(target)
        if back.sha256 != release.sha256:
            raise TrackingError(f"MLflow gave back another release than {release.id}; nothing was registered")

    def _link_output(self, run_id: str, model_id: str) -> None:
        from mlflow.entities import LoggedModelOutput

        self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])

    @contextmanager
    def _told(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        try:
            yield
        except (MlflowException, RequestException) as error:
            line = " ".join(str(error).split())[:300]
            raise TrackingError(
                f"MLflow at {self.uri} failed: {line}; see 'headframe status', then run it again"
            ) from (error)


class Run:
    """An MLflow run to log to."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.id = run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; the same value again is no error."""
        from mlflow.entities import Param

        self._client.log_batch(self.id, params=[Param(key, str(value)) for key, value in values.items()])

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics; one that is not a number is left out, for MLflow's SQL store keeps none."""
        import math
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        finite = [Metric(key, float(v), now, 0) for key, v in values.items() if math.isfinite(v)]
        for begin in range(0, len(finite), 500):
            self._client.log_batch(self.id, metrics=finite[begin : begin + 500])

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.id, tags=[RunTag(key, str(value)) for key, value in values.items()])

    def document(self, name: str, value: Any) -> None:
        """Store a JSON document."""
        self._client.log_dict(self.id, value, name)

    def image(self, name: str, png: bytes) -> None:
        """Store a PNG."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(png)
            parent = str(Path(name).parent)
            self._client.log_artifact(self.id, str(path), None if parent == "." else parent)


def _answers(uri: str) -> None:
    import httpx

    try:
        httpx.get(f"{uri}/health", timeout=httpx.Timeout(_PATIENCE_S, connect=3.0), trust_env=False).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TrackingError(
            f"MLflow at {uri} does not answer ({type(error).__name__}); see 'headframe status', then run it again"
        ) from None


def follow(settings: Settings, slot: str, alias: str, release_id: str) -> None:
    """Let an alias name a release, asking first whether it does: that costs one request, and no import of MLflow."""
    import httpx

    uri = endpoints(settings).mlflow
    if uri is None:
        return
    _answers(uri)
    try:
        answer = httpx.get(
            f"{uri}/api/2.0/mlflow/registered-models/alias", params={"name": slot, "alias": alias},
            timeout=_PATIENCE_S, trust_env=False,
        )  # fmt: skip
        tags = answer.json().get("model_version", {}).get("tags", []) if answer.status_code == 200 else []
    except (httpx.HTTPError, ValueError) as error:
        raise TrackingError(f"MLflow at {uri} failed ({type(error).__name__})") from None
    if {"key": RELEASE_TAG, "value": release_id} not in tags:
        tracker(settings).point(slot, alias, release_id)
