"""The documents name only commands, options, files and settings that exist."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from headframe.cli import build
from infra.settings import Miner, Settings

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "infra/deploy/compose/README.md"]
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def _code(text: str) -> list[str]:
    """Lines of code blocks, and inline code."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.S | re.M)
    outside = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", outside)


@each_document
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = {found for line in _code(document.read_text()) for found in re.findall(r"\bmake ([a-z]+)", line)}

    assert named <= targets


@each_document
def test_verbs_and_options_exist(document: Path) -> None:
    root = typer.main.get_command(build())
    for line in _code(document.read_text()):
        match = re.search(r"(?:^|[ /])headframe ((?:[a-z-]+ ?)+.*)", line)
        if match is None:
            continue
        words = match.group(1).split("#")[0].split()
        command: Any = root
        while words and hasattr(command, "commands"):
            verb = words.pop(0)
            found = command.commands.get(verb)
            assert found is not None, f"{line}: no verb {verb}"
            command = found
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, line


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert (document.parent / link).exists(), link


@each_document
def test_settings_in_examples_are_read(document: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", document.read_text(), flags=re.S | re.M):
        Settings(**tomllib.loads(block))


_IN_WORDS = {"home", "venv_triton", "clock.ntp_servers", "prices.folder"}
"""Defaults that differ from place to place, or that TOML has no word for."""


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.get_default(call_default_factory=True, validated_data={})


def test_every_setting_is_explained_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| (.+?) \| (.*)$", (ROOT / "docs/settings.md").read_text(), flags=re.M)
    told = {name: default for name, default, _ in rows}
    fields = dict(_fields(Settings))
    miners = {name for name in told if name.startswith("miners.")}

    assert len(told) == len(rows)
    assert told.keys() - miners == fields.keys()
    for name, default in fields.items():
        assert name in _IN_WORDS or told[name] == f"`{json.dumps(default, default=str)}`", name


def test_every_setting_of_a_further_miner_is_explained() -> None:
    named = re.findall(r"^\| `miners\.([a-z_]+)` \|", (ROOT / "docs/settings.md").read_text(), flags=re.M)
    assert sorted(named) == sorted(Miner.model_fields)
