"""Every refusal has a code that docs/gateway.md explains, and that document names no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import serving

SERVING = Path(serving.__file__).parent
DOC = SERVING.parent / "docs" / "gateway.md"
VERDICTS = {("403", code) for code in ("no_permit", "low_stake", "denied")}
"""Written by `serving.identity` when a table arrives, raised when their hotkeys call."""


def raised() -> Iterator[tuple[str, str]]:
    """Status and code of every ``Refusal(...)`` in serving/; Synth's ``_bad`` is a 400."""
    for path in SERVING.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            constants = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
            if call.func.id == "_bad" and isinstance(constants[0], str):
                yield "400", constants[0]
            elif call.func.id == "Refusal" and len(constants) >= 2 and isinstance(constants[1], str):
                yield str(constants[0]), constants[1]


def documented() -> set[tuple[str, str]]:
    """Status and code by the document's table; a row may stand for several statuses."""
    found = set()
    for statuses, codes in re.findall(r"^\| ([\d, ]+) \| ((?:`\w+` ?)+) \|", DOC.read_text(), re.MULTILINE):
        found |= {(status, code) for status in statuses.split(", ") for code in re.findall(r"\w+", codes)}
    return found


def test_every_refusal_is_explained() -> None:
    assert set(raised()) | VERDICTS <= documented()


def test_every_code_explained_is_raised() -> None:
    assert {code for _, code in documented()} == {code for _, code in set(raised()) | VERDICTS}
