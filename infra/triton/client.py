"""Triton's control over gRPC, and nothing else: HTTP loads stall live requests for as long as they last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import UserError

Arrays = dict[str, npt.NDArray[Any]]
_SOON_S = 30.0
"""For what Triton answers at once, unless the box is so busy that nobody gets to ask or to answer."""
_LOADS = 3
_STALLED = "is not healthy"
"""What Triton says when a model's process misses a beat in the warm-up, as on a box that stands still for a second. The
release is loaded again, `_LOADS` times in all."""


class TritonError(UserError):
    """Triton did not do what it was asked; its own reason, in one line."""


class Triton:
    """One Triton server, by the host:port of its gRPC endpoint. May be shared by threads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._made: Any = None

    @property
    def _client(self) -> Any:
        if self._made is None:
            from tritonclient.grpc import InferenceServerClient

            self._made = InferenceServerClient(self.address)
        return self._made

    def ready(self) -> bool:
        """Whether the server answers and takes requests; False when nothing answers.

        Not what Triton calls ready: by that word, one release that failed to load would make the whole server unready
        until it is restarted, while all others answer on.
        """
        try:
            return bool(self._client.is_server_live(client_timeout=2.0))
        except Exception:
            return False

    def server_id(self) -> str:
        """What the server was started as (``--id``)."""
        return str(self._ask("get_server_metadata", client_timeout=10.0).name)

    def version(self) -> str:
        """The server's own version."""
        return str(self._ask("get_server_metadata", client_timeout=_SOON_S).version)

    def loaded(self) -> set[str]:
        """Names of the models that are ready."""
        index = self._ask("get_model_repository_index", client_timeout=_SOON_S)
        return {model.name for model in index.models if model.state == "READY"}

    def load(self, release_id: str, *, timeout_s: float = 120.0) -> None:
        """Load a release and make sure that Triton serves it under that very name.

        `timeout_s` bounds all tries together. Raises TritonError with Triton's reason; what was loaded before stays as
        it was. What the release answers is checked by `warm`, and every answer of `infer` says which release gave it.
        """
        until, left_s = time.monotonic() + timeout_s, timeout_s
        for left in reversed(range(_LOADS)):
            try:
                self._ask("load_model", release_id, client_timeout=left_s)
                break
            except TritonError as error:
                left_s = until - time.monotonic()
                if _STALLED not in str(error) or not left or left_s <= 0:
                    raise
        name = self._ask("get_model_config", release_id, client_timeout=_SOON_S).config.name
        if name != release_id or release_id not in self.loaded():
            raise TritonError(f"Triton at {self.address} does not serve {release_id} after loading it")

    def unload(self, release_id: str, *, timeout_s: float = 60.0) -> None:
        """Unload a release; one that is not loaded is no error."""
        self._ask("unload_model", release_id, client_timeout=timeout_s)

    def infer(
        self, release_id: str, tensors: Mapping[str, npt.NDArray[Any]], timeout_s: float = 30.0, priority: int = 0
    ) -> Arrays:
        """Outputs by name, batch dimension first. Raises TritonError, also when another release answered.

        `timeout_s` bounds the wait in Triton's queue and the whole call; `priority` 1 is the highest, 0 the default.
        """
        from tritonclient.grpc import InferInput
        from tritonclient.utils import np_to_triton_dtype

        inputs = []
        for name, value in tensors.items():
            tensor = InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
            inputs.append(tensor.set_data_from_numpy(np.ascontiguousarray(value)))
        result = self._ask(
            "infer", release_id, inputs, priority=priority, timeout=int(timeout_s * 1e6), client_timeout=timeout_s
        )
        outputs: Arrays = {}
        for output in result.get_response().outputs:
            outputs[output.name] = result.as_numpy(output.name)
        answered = {text.decode() for text in outputs.get("RELEASE", np.empty(0, dtype=np.object_)).ravel()}
        if answered - {release_id}:
            raise TritonError(f"{sorted(answered)[0]} answered under the name {release_id} at {self.address}")
        return outputs

    def instances(self, release_id: str) -> int:
        """How many instances of a release its configuration asks for."""
        groups = self._ask("get_model_config", release_id, client_timeout=_SOON_S).config.instance_group
        return sum(int(group.count) for group in groups)

    def batches(self, release_id: str) -> dict[int, int]:
        """How many batches of each size a release has executed."""
        stats = self._ask("get_inference_statistics", release_id, client_timeout=_SOON_S).model_stats
        return {int(b.batch_size): int(b.compute_infer.count) for model in stats for b in model.batch_stats}

    def close(self) -> None:
        """Close the connection."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _ask(self, call: str, *args: Any, **kwargs: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return getattr(self._client, call)(*args, **kwargs)
        except InferenceServerException as error:
            raise TritonError(f"Triton at {self.address}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """Triton's message in one line: without the Python traceback that its backend appends, 300 characters at most."""
    text = getattr(error, "message", None)
    plain = str(text() if callable(text) else error)
    status = getattr(error, "status", lambda: None)()
    for mark in ("\n\nAt:", "\nTraceback", "\n\nTraceback"):
        plain = plain.partition(mark)[0]
    plain = " ".join(plain.split()).rstrip(" ;,")
    if status == "StatusCode.UNAVAILABLE" and "version" not in plain:
        plain = "no answer (is it up?)"
    elif status == "StatusCode.DEADLINE_EXCEEDED":
        plain = "no answer in time"
    return plain[:300]
