"""A request of It's AI: its typed fields, and the plain refusal of each bad one."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from serving.errors import Refusal
from serving.subnets import fields
from serving.subnets.itsai.rules import MAX_TEXTS, answerable

FIELDS = frozenset({"texts", "predictions", "version"})


class Request(msgspec.Struct, frozen=True, dict=True):
    """A request that passed every check; encoded, it is the inputs in one spelling."""

    texts: list[str]
    version: str
    """The validator's protocol version."""

    @cached_property
    def words(self) -> npt.NDArray[np.int32]:
        """Words of each text (texts,), counted as the validator counts: Python's `str.split`, blind to U+200B."""
        return np.array([len(text.split()) for text in self.texts], dtype=np.int32)

    @cached_property
    def answerable(self) -> bool:
        """Whether the answer has any word; a version probe must be left without one."""
        return answerable(self.version) and bool(self.words.any())


def parse(body: dict[str, Any]) -> Request:
    """The request in a decoded JSON body; raises Refusal (400).

    The required field ``predictions`` is not read: callers send it empty, and what it holds decides nothing.
    """
    texts = body.get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "bad_input", "texts is not a list of text")
    if len(texts) > MAX_TEXTS:
        raise Refusal(400, "too_many_texts", f"texts has more than {MAX_TEXTS} entries")
    return Request(texts, fields.text(body, "version", ""))
