"""One known tensor through a real tritonserver: a wrong numpy there empties every output without a word."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from infra.triton import throwaway
from serving.errors import UserError

_NAME = "selftest"
_CONFIG = """\
backend: "python"
max_batch_size: 4
version_policy { specific { versions: [1] } }
input [{ name: "X" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [-1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
_MODEL = '''\
"""Answers twice the input, plus one."""
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", (2 * x + 1).astype("float32"))]))
        return answers
'''


def triton_selftest(venv: Path) -> float:
    """Start a throw-away server from `venv`, send a tensor, compare the answer; returns the seconds it took.

    Raises UserError when the server does not start, or answers anything else.
    """
    began = time.monotonic()
    sent = np.linspace(-3.0, 7.0, 97, dtype=np.float32).reshape(1, -1)
    with tempfile.TemporaryDirectory(prefix="headframe-selftest-") as scratch:
        model = Path(scratch) / "models" / _NAME
        (model / "1").mkdir(parents=True)
        (model / "config.pbtxt").write_text(_CONFIG)
        (model / "1" / "model.py").write_text(_MODEL)
        with throwaway(venv, model.parent, Path(scratch) / "server") as triton:
            triton.load(_NAME)
            compare(2 * sent + 1, triton.infer(_NAME, {"X": sent})["Y"])
    return time.monotonic() - began


def compare(expected: np.ndarray[tuple[int, ...], np.dtype[np.float32]], got: object) -> None:
    """Raise UserError unless the answer is the expected one, value for value."""
    answer = np.asarray(got)
    if answer.size == 0:
        raise UserError("Triton returns empty tensors: its numpy is 2 or newer; delete .venv-triton and run 'make env'")
    if answer.shape != expected.shape or not np.array_equal(answer, expected):
        raise UserError(f"Triton answers wrongly: shape {answer.shape} for {expected.shape}, or other values")
