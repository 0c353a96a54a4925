"""What stands in a stream: messages, and entries that are none."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LATEST_MS = 1 << 53
"""No deadline is later, in epoch milliseconds: the largest that every language counts to."""

Lifetime = Callable[[bytes], int]
"""How many milliseconds the answer to a body is of use, from when its message was published."""


@dataclass(frozen=True)
class Message:
    id: str
    body: bytes
    reply_to: str | None
    until: float | None
    """When its answer ceases to be of use, in the seconds of `time.monotonic`; None for never."""

    deliveries: int
    """How often it was given to a worker, this time included."""

    @property
    def expired(self) -> bool:
        """Whether nobody has use for an answer any more."""
        return self.until is not None and self.until < time.monotonic()


class Malformed(ValueError):
    """An entry of the stream that is no message; says why."""


@dataclass(frozen=True)
class Entry:
    """An entry of the stream, not yet looked at."""

    raw_id: bytes
    raw_fields: Mapping[bytes, bytes] | Sequence[bytes]
    """As redis-py gives them, or as a script does: name, value, name, value."""
    deliveries: int

    @property
    def id(self) -> str:
        return self.raw_id.decode()

    def fields(self) -> dict[bytes, bytes]:
        """The fields by name."""
        raw = self.raw_fields
        return dict(raw) if isinstance(raw, Mapping) else pairs(raw)

    def reply_to(self, stream: str) -> str | None:
        """Where the caller waits, if that is a key that replies may be put at."""
        try:
            key = self.fields().get(b"reply_to", b"").decode()
        except UnicodeDecodeError:
            return None
        return key if key.startswith(reply_prefix(stream)) else None

    def message(self, stream: str, now_ms: int, lifetime: Lifetime | None) -> Message:
        """The message; raises Malformed.

        now_ms: the server's clock in epoch milliseconds.
        lifetime: of a message that has no deadline; none has an end by itself where it is None.
        """
        fields = self.fields()
        if b"body" not in fields:
            raise Malformed("it has no field body")
        reply_to = self.reply_to(stream)
        if b"reply_to" in fields and reply_to is None:
            raise Malformed(f"its reply_to is not UTF-8 that starts with {reply_prefix(stream)}")
        body, until = fields[b"body"], None
        if b"deadline_ms" in fields:
            until = _monotonic(_deadline(fields[b"deadline_ms"]), now_ms)
        elif lifetime is not None:
            published_ms = int(self.id.partition("-")[0])
            until = _monotonic(published_ms + lifetime(body), now_ms)
        return Message(self.id, body, reply_to, until, self.deliveries)


def _deadline(field: bytes) -> int:
    try:
        deadline_ms = int(field)
    except ValueError:
        raise Malformed("its deadline_ms is not a whole number of milliseconds") from None
    if not 0 <= deadline_ms <= LATEST_MS:
        raise Malformed("its deadline_ms is no time in milliseconds since 1970")
    return deadline_ms


def _monotonic(epoch_ms: int, now_ms: int) -> float:
    return time.monotonic() + (epoch_ms - now_ms) / 1000


def fields_of(
    stream: str, body: bytes, deadline_ms: int | None, reply_to: str | None
) -> list[str | bytes | int]:
    """The fields of a message to publish; raises ValueError if reply_to may not be replied to."""
    fields: list[str | bytes | int] = ["body", body]
    if reply_to is not None:
        if not reply_to.startswith(reply_prefix(stream)):
            raise ValueError(f"reply_to must start with {reply_prefix(stream)}, not {reply_to!r}")
        fields += ["reply_to", reply_to]
    if deadline_ms is not None:
        fields += ["deadline_ms", deadline_ms]
    return fields


def new_reply_key(stream: str) -> str:
    """A key for one reply that nobody else has."""
    return reply_prefix(stream) + uuid.uuid4().hex


def reply_prefix(stream: str) -> str:
    """What every reply key of the stream starts with."""
    return f"{stream.partition(':')[0]}:reply:"


def problem(title: str, status: int, detail: str) -> bytes:
    """The RFC 9457 document that answers for a message which no worker could answer."""
    document: Mapping[str, object] = {
        "type": "urn:recsys:problem:" + title.lower().replace(" ", "-"),
        "title": title,
        "status": status,
        "detail": detail,
    }
    return json.dumps(document).encode()


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Name, value, name, value as a mapping; of one name the last value."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
