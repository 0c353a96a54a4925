"""Events as users' histories are told them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field

from services.bodies import Id, Name, ReplyBody, RequestBody

MAX_EVENTS = 1000
"""The most events in one call."""

AHEAD = timedelta(days=1)
"""How far a clock may run ahead of this one. An event from the future would stay the newest of its
user's history for that long."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _plausible(moment: datetime) -> datetime:
    if moment < _EPOCH:
        raise ValueError("lies before 1970")
    if moment > datetime.now(UTC) + AHEAD:
        raise ValueError("lies more than one day in the future")
    return moment


class Event(RequestBody):
    """Someone did something with an item."""

    user_id: Id
    item_id: Id
    timestamp: Annotated[AwareDatetime, AfterValidator(_plausible)] = Field(
        default_factory=lambda: datetime.now(UTC)
    )
    """ISO 8601 with its offset from UTC (or `Z`), or seconds or milliseconds since 1970; not before
    1970 and no more than a day ahead. The time of arrival where it is not given."""

    event: Name = "view"
    """What happened."""

    value: float = Field(1.0, ge=-1e38, le=1e38, allow_inf_nan=False)
    """How much of it: a rating, a count, seconds."""


class EventsRequest(RequestBody):
    """Tell what users did; the next recommendation reflects it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {"user_id": "196", "item_id": "50", "event": "view"},
                        {
                            "user_id": "196",
                            "item_id": "172",
                            "timestamp": "2026-01-31T12:00:00Z",
                            "event": "rating",
                            "value": 5,
                        },
                    ]
                }
            ]
        }
    )

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


class EventsReply(ReplyBody):
    accepted: int
    """How many events are in Redis and in their users' histories. The private server has them on
    disk within a second; another one as it is set up."""
