"""What is recommended, asked and answered, and what goes wrong: the same JSON on every way in."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.bodies import DeadlineMs, Id, K, Name, ReplyBody, RequestBody
from services.filter_schemas import Filters

DEFAULT_K = 10
"""How many items are recommended where a request does not say."""

MAX_HISTORY = 1000
"""The longest history that a request may bring along."""

MAX_LIST = 10_000
"""The most ids in an allow or a deny list."""

MAX_BATCH = 256
"""The most requests in one batch."""


class RecommendRequest(RequestBody):
    """Ask for recommendations: for a user by id, or for the history given in the request.

    With neither, the answer is what is popular, and the reply says so.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": "196", "k": 5},
                {"history": ["260", "1196", "1210"], "k": 5, "model": "sasrec"},
                {"user_id": "196", "deny": ["50"], "filters": {"tags": ["Comedy"]}},
            ]
        }
    )

    user_id: Id | None = None
    """Whose stored history to start from. Not together with `history`."""

    history: list[Id] | None = Field(None, max_length=MAX_HISTORY)
    """Item ids, oldest first, to start from in place of a stored history. Ids that the model does
    not know are skipped and named in the reply's `unknown_items`."""

    k: K | None = None
    """How many items to recommend; no more than the catalogue holds. Where it is not given, 10, or
    all that a smaller catalogue holds."""

    model: Name | None = None
    """Which of the models in service answers (`GET /v1/models` lists them); the default's name
    stands there too."""

    exclude_seen: bool = Field(True, strict=True)
    """Leave out the items of the history."""

    allow: list[Id] | None = Field(None, min_length=1, max_length=MAX_LIST)
    """Recommend from these items only."""

    deny: list[Id] = Field([], max_length=MAX_LIST)
    """Recommend none of these items."""

    filters: Filters | None = None
    """Recommend only items that pass these filters."""

    deadline_ms: DeadlineMs | None = None
    """Milliseconds from arrival after which the answer is of no use and is not computed; the
    server's own default where it is not given. A request over the queue arrives when it is added
    to the stream, and the message's own field `deadline_ms`, an epoch time, goes first."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.user_id is not None and self.history is not None:
            raise ValueError("give either user_id or history, not both")
        return self


class Deadline(BaseModel):
    """What a request says of its deadline, whatever else it says."""

    deadline_ms: DeadlineMs | None = None


class RecommendBatchRequest(RequestBody):
    """Many requests answered together, each by itself."""

    requests: list[RecommendRequest] = Field(min_length=1, max_length=MAX_BATCH)


class Recommendation(ReplyBody):
    """One item of an answer."""

    item_id: str
    title: str
    score: float
    """Higher is better. Comparable within one `space` only."""

    space: str
    """What gave the score: the model's kind, the name of a content space, or `popularity` where
    these stepped in."""

    bridged: bool = False
    """Whether the model never learnt the item and scores it by its content."""


class FallbackReason(StrEnum):
    """Why the answer does not come from the model, but from what is popular with everybody or,
    where it says so, from the items' contents."""

    NO_USER = "no_user"
    """The request named neither a user nor a history."""

    UNKNOWN_USER = "unknown_user"
    """There is no history of this user."""

    HISTORY_UNAVAILABLE = "history_unavailable"
    """The stored histories cannot be read just now."""

    EMPTY_HISTORY = "empty_history"
    """The history in the request is empty."""

    NO_KNOWN_ITEM = "no_known_item"
    """The model learned nothing about any item of the history. The answer is what resembles these
    items in a content space, where one knows them."""

    UNTOLD_ITEM = "untold_item"
    """The model cannot tell what is similar to the item."""


class Fallback(ReplyBody):
    reason: FallbackReason
    detail: str
    """The same for a person to read."""


class RecommendReply(ReplyBody):
    """Recommendations, best first, and where they come from.

    Fewer than `k` only where fewer items are left by the lists, the filters and what was seen.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "user_id": "196",
                    "items": [
                        {
                            "item_id": "1196",
                            "title": "Star Wars: Episode V",
                            "score": 7.31,
                            "space": "sasrec",
                        }
                    ],
                    "model": "sasrec",
                    "version": "v0003",
                    "fallback": None,
                    "unknown_items": [],
                }
            ]
        }
    )

    items: list[Recommendation]
    model: str
    """The model that was asked."""

    version: str
    """The version of its bundle."""

    user_id: str | None = None
    fallback: Fallback | None = None
    """Null when the model answered from the history."""

    unknown_items: list[str] = Field([])
    """Items of the history that the model does not know and that played no part, each once."""


class SimilarReply(ReplyBody):
    """The items most similar to one item, best first; the item itself is not among them.

    The score is the cosine of the two items' vectors.
    """

    item_id: str
    items: list[Recommendation]
    model: str
    version: str
    fallback: Fallback | None = None


class ModelInfo(ReplyBody):
    """A model in service."""

    name: str
    kind: str
    version: str
    """The version in service."""

    versions: list[str]
    """All versions that the registry holds, oldest first."""

    default: bool
    """Whether it answers requests that name no model."""

    created: datetime
    n_items: int
    metrics: list[dict[str, Any]]
    """What it measured at, each with its protocol, as its manifest says."""

    index: dict[str, Any]
    """How it searches, with the recall that was measured, as its manifest says."""


class ModelsReply(ReplyBody):
    models: list[ModelInfo]


class FieldError(ReplyBody):
    field: str
    """Where in the request, as `events.2.user_id`; empty for the whole of it."""

    message: str


class Problem(ReplyBody):
    """An error as RFC 9457 (`application/problem+json`) has it."""

    type: str
    """Names the kind of problem; stays the same over releases."""

    title: str
    """The kind of problem for a person to read."""

    status: int
    """The HTTP status code."""

    detail: str
    """What was wrong this time, and what to do."""

    instance: str | None = None
    """The path that was called."""

    errors: list[FieldError] = Field([])
    """The fields that are wrong, for a 422."""


class RecommendBatchReply(ReplyBody):
    """The replies in the order of the requests; one that failed has its problem in its place."""

    replies: list[RecommendReply | Problem]
