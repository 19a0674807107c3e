"""Runs inside Triton: gives ``X`` back as ``Y``, and the release's name."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Triton names a model after its folder, and that is the release."""
        self._release = args["model_name"].encode()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request of a batch."""
        return [self._echo(pb_utils.get_input_tensor_by_name(request, "X").as_numpy()) for request in requests]

    def _echo(self, x: Any) -> Any:
        release = np.array([[self._release]] * len(x), dtype=np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", x), pb_utils.Tensor("RELEASE", release)])
