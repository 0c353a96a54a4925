"""What a caller may send, and what a caller who sends something else is told."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from services.event_schemas import Event, EventsRequest
from services.problems import Invalid, Malformed, ServiceError, UnknownItem, parse
from services.schemas import (
    Problem,
    RecommendBatchReply,
    RecommendBatchRequest,
    RecommendReply,
    RecommendRequest,
)


def refused(schema: type[BaseModel], body: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        parse(schema, body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


def test_every_field_of_a_request_has_a_default() -> None:
    assert parse(RecommendRequest, b"{}") == RecommendRequest()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"k": 0}, "k"),
        ({"k": 1001}, "k"),
        ({"k": "5"}, "k"),
        ({"k": 10**30}, "k"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": 7}, "user_id"),
        ({"user_id": "x" * 257}, "user_id"),
        ({"user_id": "a\u0000"}, "user_id"),
        ({"history": ["a", "b\n"]}, "history.1"),
        ({"allow": []}, "allow"),
        ({"filters": {"tags": []}}, "filters.tags"),
        ({"filters": {"colour": ["red"]}}, "filters.colour"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"usr_id": "196"}, "usr_id"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], field: str) -> None:
    error = refused(RecommendRequest, body)
    assert error.status == 422
    assert field in [e.field for e in error.errors]
    assert field in error.message


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        (b"{}", "compares with nothing; give a value to one of eq, in, gte, gt, lte, lt"),
        (b"null", "compares with nothing"),
        (b'{"gte": null}', "compares with nothing"),
        (b'{"gte": NaN}', "NaN"),
        (b'{"in": [1, Infinity]}', "infinity"),
        (b'{"gte": 1, "lt": "a"}', "not from number to string"),
    ],
)
def test_a_condition_that_nothing_can_meet_is_refused_by_its_attribute(
    condition: bytes, told: str
) -> None:
    body = b'{"filters": {"attributes": {"year": %s}}}' % condition
    error = refused(RecommendRequest, body)
    assert [e.field for e in error.errors] == ["filters.attributes.year"]
    assert told in error.message


def test_a_user_and_a_history_together_are_refused() -> None:
    error = refused(RecommendRequest, {"user_id": "196", "history": ["50"]})
    assert error.message == "give either user_id or history, not both"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"user_id": "\\ud800"}', b"{'k': 1}"])
def test_what_is_not_json_in_utf8_is_malformed(body: bytes) -> None:
    error = refused(RecommendRequest, body)
    assert isinstance(error, Malformed)
    assert error.status == 400


@pytest.mark.parametrize("body", [b"null", b"[]", b"7", b'"k"'])
def test_json_that_is_no_object_is_invalid(body: bytes) -> None:
    assert isinstance(refused(RecommendRequest, body), Invalid)


def test_a_wrong_request_in_a_batch_is_named_by_its_place() -> None:
    error = refused(RecommendBatchRequest, {"requests": [{}, {"k": 0}]})
    assert [e.field for e in error.errors] == ["requests.1.k"]


def test_an_event_without_a_timestamp_happens_now() -> None:
    before = datetime.now(UTC)
    event = parse(Event, b'{"user_id": "u", "item_id": "i"}')
    assert before <= event.timestamp <= datetime.now(UTC)


@pytest.mark.parametrize(
    "timestamp", ["2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00", 1_700_000_000, 1.7e12]
)
def test_a_timestamp_is_iso_8601_or_seconds_or_milliseconds(timestamp: Any) -> None:
    body = json.dumps({"user_id": "u", "item_id": "i", "timestamp": timestamp}).encode()
    assert parse(Event, body).timestamp == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(hours=23)])
def test_a_clock_that_is_fast_by_less_than_a_day_is_believed(ahead: timedelta) -> None:
    timestamp = datetime.now(UTC) + ahead
    assert Event(user_id="u", item_id="i", timestamp=timestamp).timestamp == timestamp


@pytest.mark.parametrize(
    ("timestamp", "message"),
    [
        (str(datetime.now(UTC) + timedelta(hours=25)), "more than one day in the future"),
        ("9999-12-31T23:59:59Z", "more than one day in the future"),
        ("1969-12-31T23:59:59Z", "before 1970"),
        (-1, "before 1970"),
    ],
)
def test_an_event_of_no_time_that_there_was_is_refused(timestamp: Any, message: str) -> None:
    error = refused(Event, {"user_id": "u", "item_id": "i", "timestamp": timestamp})
    assert error.status == 422
    assert f"timestamp: lies {message}" in error.message


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"user_id": "u"}, "events.0.item_id"),
        ({"user_id": "u", "item_id": "i", "timestamp": "yesterday"}, "events.0.timestamp"),
        (
            {"user_id": "u", "item_id": "i", "timestamp": "2023-11-14T22:13:20"},
            "events.0.timestamp",
        ),
        ({"user_id": "u", "item_id": "i", "value": 1e39}, "events.0.value"),
        ({"user_id": "u", "item_id": "i", "event": ""}, "events.0.event"),
    ],
)
def test_a_wrong_event_is_named_by_its_place(event: dict[str, Any], field: str) -> None:
    assert [e.field for e in refused(EventsRequest, {"events": [event]}).errors] == [field]


def test_a_call_bears_at_most_a_thousand_events() -> None:
    event = {"user_id": "u", "item_id": "i"}
    assert len(parse(EventsRequest, json.dumps({"events": [event] * 1000}).encode()).events) == 1000
    assert refused(EventsRequest, {"events": [event] * 1001}).status == 422
    assert refused(EventsRequest, {"events": []}).status == 422


def test_a_failure_is_a_problem_document() -> None:
    problem = UnknownItem("there is no item '7'").problem("/v1/items/7/similar")
    assert problem.model_dump() == {
        "type": "urn:recsys:problem:unknown-item",
        "title": "Unknown item",
        "status": 404,
        "detail": "there is no item '7'",
        "instance": "/v1/items/7/similar",
        "errors": [],
    }


def test_a_batch_reply_tells_answers_and_problems_apart() -> None:
    answer = RecommendReply(items=[], model="ials", version="0001")
    problem = UnknownItem("there is no item '7'").problem()
    reply = RecommendBatchReply(replies=[answer, problem])
    again = RecommendBatchReply.model_validate_json(reply.model_dump_json())
    assert again == reply
    assert [type(one) for one in again.replies] == [RecommendReply, Problem]


def test_a_reply_of_a_newer_server_is_read() -> None:
    body = {"items": [], "model": "ials", "version": "0001", "not_yet_thought_of": 1}
    assert RecommendReply.model_validate(body).model == "ials"
