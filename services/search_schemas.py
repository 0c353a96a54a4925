"""Searches and the spaces that answer them, over HTTP."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field, StrictBool, model_validator

from encoders.picture import MAX_BYTES
from services.bodies import DeadlineMs, Id, K, Name, ReplyBody, RequestBody
from services.filter_schemas import Filters
from services.item_schemas import Words

MAX_EXAMPLES = 100
"""The most items that a search can be like, or unlike."""


class Picture(RequestBody):
    """A picture to search by: its file, or where that lies."""

    base64: str | None = Field(None, min_length=1, max_length=MAX_BYTES * 4 // 3 + 4)
    """The bytes of its file in base64."""

    uri: str | None = Field(None, min_length=1, max_length=2048)
    """Where it lies under the folders and stores that the operator lets pictures be read from
    (RECSYS_IMAGE_ROOTS): a path, `file://`, `s3://` or `gs://`. Nothing else is read or fetched."""

    def data(self) -> bytes | None:
        """The bytes where they are given; raises ValueError."""
        if self.base64 is None:
            return None
        try:
            return base64.b64decode(self.base64, validate=True)
        except binascii.Error as error:
            raise ValueError(f"is not base64: {error}") from None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.base64 is None) == (self.uri is None):
            raise ValueError("give either base64 or uri")
        self.data()
        return self


class SearchRequest(RequestBody):
    """Search by words, by a picture, by items that the results shall be like, or all of these.

    Each space that can answer ranks for itself; the rankings are merged by weighted reciprocal
    rank (Cormack et al., 2009).
    """

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [
                {"text": "a lonely sheriff", "k": 5},
                {
                    "text": "space battles",
                    "filters": {"tags": ["Sci-Fi"], "attributes": {"year": {"gte": 1990}}},
                },
                {"like": ["i174", "i304"], "unlike": ["i029"], "spaces": {"text": 1, "image": 0.5}},
            ]
        }
    }

    text: Words | None = None
    """What to look for, in words."""

    picture: Picture | None = None
    """A picture that the results shall look like."""

    like: list[Id] = Field([], max_length=MAX_EXAMPLES)
    """Items that the results shall be like; they are not among the results."""

    unlike: list[Id] = Field([], max_length=MAX_EXAMPLES)
    """Items that the results shall not be like; they are not among the results."""

    k: K | None = None
    """How many items to find; 10 where it is not given."""

    spaces: dict[Name, Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]] | None = None
    """How much the ranking of each space counts; all alike where it is not given. A space that is
    left out, or weighs 0, is not asked."""

    popularity: float = Field(0.0, ge=0, le=1000, allow_inf_nan=False)
    """How much it counts how popular the found items are, beside the spaces: they are ranked by
    how often they stand in the histories of the default model, too. Not at all at 0; good for
    known items that are asked for in other words than their own."""

    filters: Filters | None = None
    """Find only items that pass these filters."""

    rerank: StrictBool = False
    """Let the cross-encoder read the text against the best results and order them anew; those that
    it cannot read, and all behind the best 50, follow in the order that they had."""

    deadline_ms: DeadlineMs | None = None
    """Milliseconds after which the answer is of no use; the server's default where not given."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.text is None and self.picture is None and not self.like:
            raise ValueError("give text, picture or like: there is nothing to search by")
        if self.rerank and self.text is None:
            raise ValueError("rerank: needs text, which the cross-encoder reads the results with")
        if self.spaces is not None and not any(self.spaces.values()):
            raise ValueError("spaces: give at least one space a weight above 0")
        return self


class Found(ReplyBody):
    """One item that was found."""

    item_id: str
    title: str
    score: float
    """Higher is better: the cross-encoder's for those of the best that it ordered, else the fused
    one, else the cosine in the one space that answered. Comparable within one reply only, and of
    one sort only."""

    spaces: dict[str, SpaceRank]
    """Where it stood in each space that ranked it, and by `popularity` where that was asked for."""


class SpaceRank(ReplyBody):
    rank: int
    """1 is the first."""

    score: float
    """The cosine; by popularity, the number of events."""


class SpaceInfo(ReplyBody):
    """A content space in service."""

    name: str
    version: str
    encoder: str
    fingerprint: str
    n_items: int
    live_items: int
    """How many of the items were put in since the main index was built."""

    created: datetime
    index: dict[str, Any]


class SpacesReply(ReplyBody):
    spaces: list[SpaceInfo]


class SearchReply(ReplyBody):
    """What was found, best first. Fewer than `k` only where fewer items pass the filters, or the
    rankings that were merged hold no more."""

    items: list[Found]
    versions: dict[str, str]
    """The version of each space that was searched."""

    reranked: bool
    unknown_items: list[str] = Field([])
    """Those of `like` and `unlike` that no searched space knows; they played no part."""
