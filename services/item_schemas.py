"""What is said of items over HTTP: put, looked at, hidden, searched."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, StrictBool, StrictFloat, StrictInt, model_validator

from services.bodies import DeadlineMs, Id, K, Name, ReplyBody, RequestBody
from services.filter_schemas import Filters

MAX_ITEMS = 1000
"""The most items in one call."""

MAX_TEXT = 1 << 16
"""Characters of the longest title or text of an item, and of a query."""

MAX_PICTURE = 5 << 20
"""Bytes of the largest picture in a request, decoded."""

MAX_EXAMPLES = 100
"""The most items that a search can be like, or unlike."""

AttributeName = Annotated[str, Field(min_length=1, max_length=64)]

AttributeValue = (
    StrictBool
    | StrictInt
    | Annotated[StrictFloat, Field(allow_inf_nan=False)]
    | Annotated[str, Field(max_length=1000)]
    | list[Annotated[str, Field(max_length=1000)]]
)
"""A number, a truth value, a text or a list of texts."""


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is no text in UTF-8") from None
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_text)]


class Item(RequestBody):
    """An item of the catalogue as its owner describes it; it replaces what was known of it."""

    item_id: Id
    title: Annotated[Text, Field(min_length=1)]
    text: Text | None = None
    """What it is, in words; it is embedded with the title and the tags."""

    image: str | None = Field(None, max_length=2048)
    """Where its picture is: a path or URI under one of the roots that the service is set up with
    (RECSYS_IMAGE_ROOTS). No other place is ever asked."""

    tags: list[Name] = Field([], max_length=100)
    attributes: dict[AttributeName, AttributeValue] = Field({}, max_length=100)
    """What filters may ask for: numbers, truth values, texts, lists of texts."""

    available: StrictBool = True
    """Whether it may be recommended and found."""


class ItemsRequest(RequestBody):
    """Put items into the catalogue, or put others in their places."""

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [
                {
                    "items": [
                        {
                            "item_id": "f1",
                            "title": "Dust and Saddles",
                            "text": "A sheriff rides alone.",
                            "tags": ["Western"],
                            "attributes": {"year": 2026},
                        }
                    ]
                }
            ]
        }
    }

    items: list[Item] = Field(min_length=1, max_length=MAX_ITEMS)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        ids = [item.item_id for item in self.items]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(f"the item {twice!r} stands twice in the request")
        return self


class ItemsReply(ReplyBody):
    accepted: int
    """How many items are in Redis, and will be searchable once they are embedded."""

    sequence: int
    """The number of the last of these changes to the catalogue."""


class ItemState(StrEnum):
    """How far an item is in a content space."""

    PENDING = "pending"
    """Not embedded yet; `reasons` says why where it was tried and is going to be tried again."""

    READY = "ready"
    """Embedded, and found."""

    FAILED = "failed"
    """It cannot be embedded; `reasons` says why."""

    ABSENT = "absent"
    """It has no content of this sort."""


class ItemReply(ReplyBody):
    """An item as the service knows it."""

    item_id: str
    title: str
    text: str | None
    image: str | None
    tags: list[str]
    attributes: dict[str, Any]
    available: bool
    live: bool
    """Whether it was put in over the API since the main index was built."""

    spaces: dict[str, ItemState]
    """For each content space in service, how far the item is in it."""

    reasons: dict[str, str] = Field({})
    """Why it failed, or was not embedded yet, for each space in which that is so."""

    models: list[str] = Field([])
    """The models that know it, learnt or bridged."""


class DeleteReply(ReplyBody):
    item_id: str
    hidden: bool = True
    sequence: int


class Picture(RequestBody):
    """A picture to search by, the bytes of its file in base64."""

    base64: str = Field(min_length=1, max_length=MAX_PICTURE * 4 // 3 + 4)

    def data(self) -> bytes:
        """The bytes; raises ValueError."""
        try:
            return base64.b64decode(self.base64, validate=True)
        except binascii.Error as error:
            raise ValueError(f"is not base64: {error}") from None

    @model_validator(mode="after")
    def _decodes(self) -> Self:
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

    text: Annotated[Text, Field(min_length=1)] | None = None
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

    filters: Filters | None = None
    """Find only items that pass these filters."""

    rerank: StrictBool = False
    """Let the cross-encoder read the text against the best results and order them anew."""

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
    """Higher is better: the cross-encoder's where it ordered the results, else the fused one, else
    the cosine in the one space that answered. Comparable within one reply only."""

    spaces: dict[str, SpaceRank]
    """Where it stood in each space that ranked it."""


class SpaceRank(ReplyBody):
    rank: int
    """1 is the first."""

    score: float
    """The cosine."""


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
