"""The floors of the house: no arrow runs up, nothing happens at import, no address of a machine is committed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ALLOWED = {
    "serving": {"serving"},
    "triton_models": {"triton_models"},
    "infra": {"infra", "serving"},
    "flows": {"flows", "infra", "serving", "triton_models"},
    "headframe": {"headframe", "flows", "infra", "serving", "triton_models"},
}
FLOORS = frozenset(ALLOWED)
# What costs seconds to import, and so never loads with the command line or in a gateway worker.
HEAVY = ("mlflow", "prefect", "matplotlib", "arch", "pandas", "bittensor", "boto3", "sklearn")


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def _arrows(floor: str) -> list[str]:
    wrong = []
    for path in sorted((ROOT / floor).rglob("*.py")):
        for module in _imports(ast.parse(path.read_text())):
            top = module.split(".")[0]
            if top in FLOORS and top not in ALLOWED[floor]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    return wrong


@pytest.mark.parametrize("floor", sorted(FLOORS))
def test_no_arrow_runs_up(floor: str) -> None:
    assert (ROOT / floor / "__init__.py").exists()
    assert _arrows(floor) == []


def test_the_rpc_client_knows_of_no_road_and_no_triton() -> None:
    paths = sorted((ROOT / "serving" / "rpc").rglob("*.py"))
    named = {
        module for path in paths for module in _imports(ast.parse(path.read_text())) if module.startswith("serving")
    }
    assert len(paths) > 1
    assert {module for module in named if not module.startswith("serving.rpc")} <= {"serving.errors"}


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import serving.app, serving.server, serving.subnets.synth.protocol", HEAVY),
        ("from headframe.cli import build; build()", HEAVY),
        ("import infra.settings", HEAVY),
        ("import infra.sidecar", ("mlflow", "prefect", "matplotlib", "arch")),
    ],
)
def test_heavy_packages_stay_out(statement: str, heavy: tuple[str, ...]) -> None:
    assert _loaded_by(statement) & set(heavy) == set()


def _tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout: there is no list of tracked files to read")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_registry_host_and_no_machine_path_is_committed() -> None:
    dot = r"\.org"
    hosts = re.compile(rf"(pypi{dot}|pythonhosted{dot}|npmjs{dot}|debian{dot})")
    places = re.compile(r"(?<![\w.])/(work|root|home)/[a-z]")
    wrong = []
    for path in _tracked():
        if not path.is_file() or path.suffix in {".npz", ".png", ".parquet"}:
            continue
        text = path.read_text(errors="replace")
        wrong += [f"{path.relative_to(ROOT)}: {m.group()}" for r in (hosts, places) for m in r.finditer(text)]
    assert wrong == []


def test_locks_pin_every_package_by_hash_and_name_no_address() -> None:
    for lock in (ROOT / "requirements.lock", ROOT / "triton_models" / "requirements.lock"):
        text = lock.read_text()
        assert "://" not in text
        pins = re.split(r"\n(?=\S)", text.strip())
        assert len(pins) > 2
        assert all("==" in pin and "--hash=sha256:" in pin for pin in pins), lock
