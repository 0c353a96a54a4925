"""The failures that a caller is told of: each knows its HTTP status and its RFC 9457 document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from infra.errors import RecsysError, reason
from services.schemas import FieldError, Problem

M = TypeVar("M", bound=BaseModel)

MAX_BODY = 1 << 20
"""Bytes of the largest body that is read, over HTTP and over the queue."""

MAX_CONTENT_BODY = 8 << 20
"""The same of one that holds the texts of many items."""


class ServiceError(RecsysError):
    """A failure with an HTTP status; its message is the problem's detail."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "The service failed"

    retry_after_s: float | None = None
    """Seconds after which the same request may do better, for one that was not to blame."""

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)

    def problem(self, instance: str | None = None) -> Problem:
        """The RFC 9457 document of this failure; `instance` is the path that was called."""
        return Problem(
            type="urn:recsys:problem:" + self.title.lower().replace(" ", "-"),
            title=self.title,
            status=self.status,
            detail=self.message,
            instance=instance,
            errors=self.errors,
        )


class Malformed(ServiceError):
    """The body is not JSON in UTF-8."""

    status = 400
    title = "Malformed body"


class Invalid(ServiceError):
    """The body is JSON, but not the one that is asked for; `errors` names the fields."""

    status = 422
    title = "Invalid request"


class UnknownItem(ServiceError):
    status = 404
    title = "Unknown item"


class UnknownModel(ServiceError):
    status = 404
    title = "Unknown model"


class UnknownSpace(ServiceError):
    status = 404
    title = "Unknown space"


class UnknownJob(ServiceError):
    status = 404
    title = "Unknown job"


class NoSuchPath(ServiceError):
    status = 404
    title = "No such path"


class WrongMethod(ServiceError):
    status = 405
    title = "Method not allowed"


class TooLarge(ServiceError):
    """The body has more bytes than are read of its sort."""

    status = 413
    title = "Body too large"

    def __init__(self, most: int) -> None:
        super().__init__(f"the body is larger than {most} bytes; send it in several requests")


class NotJson(ServiceError):
    """The Content-Type names something else than JSON."""

    status = 415
    title = "Unsupported media type"


class Overloaded(ServiceError):
    """More is asked than can be answered; the same request may be answered later."""

    status = 429
    title = "Too many requests"
    retry_after_s = 1.0


class Unavailable(ServiceError):
    """A part of the service is not there for now."""

    status = 503
    title = "Not available"
    retry_after_s = 2.0


class DeadlineExceeded(ServiceError):
    """The answer took longer than it was of use."""

    status = 504
    title = "Deadline exceeded"


def parse(schema: type[M], body: bytes, most: int = MAX_BODY) -> M:
    """The request that the body of `most` bytes at most holds; raises TooLarge, Malformed or
    Invalid."""
    if len(body) > most:
        raise TooLarge(most)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False, include_input=False)) from None


def refusal(errors: Sequence[Mapping[str, Any]]) -> ServiceError:
    """Malformed or Invalid, from the errors that pydantic (or FastAPI) lists."""
    broken = next((error for error in errors if error["type"] == "json_invalid"), None)
    if broken is not None:
        why = broken.get("ctx", {}).get("error", broken["msg"])
        return Malformed(f"the body is not JSON in UTF-8: {why}")
    fields = [FieldError(field=_path(error["loc"]), message=_message(error)) for error in errors]
    detail = "; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in fields[:3])
    if len(fields) > 3:
        detail += f"; and {len(fields) - 3} more, listed in errors"
    return Invalid(detail, fields)


def _path(location: Sequence[str | int]) -> str:
    """`requests.2.k`; FastAPI puts the part of the request, such as `body`, before it."""
    parts = location[1:] if location[:1] in (("body",), ("query",), ("path",)) else location
    return ".".join(str(part) for part in parts)


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field; check its spelling against the API documentation at /docs"
    return reason(error)
