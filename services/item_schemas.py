"""What is said of items over HTTP: put, looked at, hidden."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, StrictBool, StrictFloat, StrictInt, model_validator

from services.bodies import Id, Name, ReplyBody, RequestBody

MAX_ITEMS = 1000
"""The most items in one call."""

MAX_ITEM = 1 << 18
"""Bytes of the largest item, as JSON. It bounds what all live items take in Redis and replicas."""

MAX_TEXT = 1 << 16
"""Characters of the longest title or text of an item, and of a query."""

AttributeName = Annotated[str, Field(min_length=1, max_length=64)]


def _storable(value: Any) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("is a whole number of more than 64 bits; send it as a text")
    return value


SingleValue = Annotated[
    StrictBool
    | StrictInt
    | Annotated[StrictFloat, Field(allow_inf_nan=False)]
    | Annotated[str, Field(max_length=1000)],
    AfterValidator(_storable),
]

AttributeValue = SingleValue | list[SingleValue]
"""A number, a truth value, a text or a list of them."""


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is no text in UTF-8") from None
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_text)]

Words = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_text)]
"""A text that is not empty."""


class Item(RequestBody):
    """An item of the catalogue as its owner describes it; it replaces what was known of it."""

    item_id: Id
    title: Words
    text: Text | None = None
    """What it is, in words; it is embedded with the title and the tags."""

    image: str | None = Field(None, max_length=2048)
    """Where its picture is: a path or URI under one of the roots that the service is set up with
    (RECSYS_IMAGE_ROOTS). No other place is ever asked."""

    tags: list[Name] = Field([], max_length=100)
    attributes: dict[AttributeName, AttributeValue] = Field({}, max_length=100)
    """What filters may ask for: numbers, truth values, texts, lists of them."""

    available: StrictBool = True
    """Whether it may be recommended and found."""


def _small(item: Item) -> Item:
    size = len(item.model_dump_json().encode())
    if size > MAX_ITEM:
        raise ValueError(
            f"the item {item.item_id!r} has {size:,} bytes as JSON; {MAX_ITEM:,} are allowed"
        )
    return item


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

    items: list[Annotated[Item, AfterValidator(_small)]] = Field(min_length=1, max_length=MAX_ITEMS)

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
