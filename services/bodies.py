"""What all requests and replies have in common: the same JSON over HTTP and over the Redis queue.

Requests refuse fields that they do not know, so that a misspelt one is told and not ignored.
Replies ignore them, so that a client reads the replies of a newer server.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

MAX_K = 1000
"""The most items that one request may ask for."""

MAX_DEADLINE_MS = 60_000
"""The longest time that a request may give itself."""


def _printable(text: str) -> str:
    bad = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs")), None)
    if bad is not None:
        raise ValueError(
            f"holds the control character U+{ord(bad):04X}; send printable characters only"
        )
    return text


Id = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_printable)]
"""An item's or user's id as its owner gave it: 1 to 256 characters, no control characters."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_printable)]
"""The name of a model, a tag or a kind of event: 1 to 64 characters, no control characters."""

Place = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_printable)]
"""A path, or the name of a model: 1 to 4096 characters, no control characters."""

DeadlineMs = Annotated[int, Field(strict=True, ge=1, le=MAX_DEADLINE_MS)]

K = Annotated[int, Field(strict=True, ge=1, le=MAX_K)]


class RequestBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ReplyBody(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", use_attribute_docstrings=True, protected_namespaces=()
    )
