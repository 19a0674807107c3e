"""Exporting: the same parameters give the same bytes, and what is written reads back exactly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.triton_models.synth_paths.series import minutes
from triton_models.synth_paths import release
from triton_models.synth_paths.train import Params, fit


@pytest.fixture(scope="module")
def params() -> Params:
    return fit("synth-high", "garch-t", {"AAPLX": {60: minutes()}})


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_parameters_give_the_same_bytes(params: Params, tmp_path: Path) -> None:
    release.export(params, tmp_path / "a")
    again = fit("synth-high", "garch-t", {"AAPLX": {60: minutes()}})
    release.export(again, tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert {"config.pbtxt", "1/model.py", "1/params.json", "1/warmup.json", "warmup/HISTORY"} <= set(
        digests(tmp_path / "a")
    )


def test_the_model_is_copied_word_for_word(params: Params, tmp_path: Path) -> None:
    release.export(params, tmp_path)
    assert (tmp_path / "1" / "model.py").read_bytes() == (release.HERE / "model.py").read_bytes()
    assert json.loads((tmp_path / "1" / "params.json").read_bytes()) == params.as_dict()


def test_warm_up_requests_read_back_bit_for_bit(params: Params, tmp_path: Path) -> None:
    release.export(params, tmp_path)
    written = json.loads((tmp_path / "1" / "warmup.json").read_bytes())["requests"]
    assert len(written) == len(params.examples)
    for seed, (request, example) in enumerate(zip(written, params.examples, strict=True)):
        tensors = release.request_tensors("synth-high", example, seed)
        assert set(request["inputs"]) == set(tensors)
        history = [np.nan if value is None else value for value in request["inputs"]["HISTORY"]["data"]]
        assert np.array(history, dtype=np.float32).tobytes() == tensors["HISTORY"].tobytes()
        assert request["inputs"]["SEED"]["data"] == [seed]
        assert request["outputs"]["PATHS"]["shape"] == [1, 1000, 61]


def test_load_time_tensors_are_as_triton_reads_them(params: Params, tmp_path: Path) -> None:
    release.export(params, tmp_path)
    first = params.examples[0]
    assert (tmp_path / "warmup" / "HISTORY").read_bytes() == first.history.tobytes()
    assert (tmp_path / "warmup" / "ASSET").read_bytes() == len(first.asset).to_bytes(4, "little") + first.asset.encode()
    assert (tmp_path / "warmup" / "GRID").read_bytes() == np.array([60, 3600], dtype=np.int32).tobytes()


def test_the_model_needs_numpy_and_the_standard_library_only() -> None:
    import ast
    import sys

    tree = ast.parse((release.HERE / "model.py").read_text())
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]  # type: ignore[union-attr]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names - set(sys.stdlib_module_names) == {"numpy", "triton_python_backend_utils"}
