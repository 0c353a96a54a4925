"""What stands in a stream: messages, entries that are none, and dead letters."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    id: str
    body: bytes
    reply_to: str | None
    deadline_ms: int | None
    """Epoch milliseconds."""

    deliveries: int
    """How often it was given to a worker, this time included."""


@dataclass(frozen=True)
class DeadLetter:
    id: str
    """Its id among the dead letters, to retry or drop it by."""

    message_id: str
    reason: str
    deliveries: int
    fields: dict[str, bytes]
    """The message as it was in the stream."""


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
        return dict(raw) if isinstance(raw, Mapping) else _pairs(raw)

    def reply_to(self, stream: str) -> str | None:
        """Where the caller waits, if that is a key that replies may be put at."""
        try:
            key = self.fields().get(b"reply_to", b"").decode()
        except UnicodeDecodeError:
            return None
        return key if key.startswith(reply_prefix(stream)) else None

    def message(self, stream: str) -> Message:
        """The message; raises Malformed."""
        fields = self.fields()
        if b"body" not in fields:
            raise Malformed("it has no field body")
        reply_to = self.reply_to(stream)
        if b"reply_to" in fields and reply_to is None:
            raise Malformed(f"its reply_to is not UTF-8 that starts with {reply_prefix(stream)}")
        deadline_ms = None
        if b"deadline_ms" in fields:
            try:
                deadline_ms = int(fields[b"deadline_ms"])
            except ValueError:
                raise Malformed("its deadline_ms is not a whole number of milliseconds") from None
        return Message(self.id, fields[b"body"], reply_to, deadline_ms, self.deliveries)


def dead_letter(raw_id: bytes, raw_fields: Sequence[bytes]) -> DeadLetter:
    """The dead letter that BURY wrote: three fields of its own, then the message's."""
    own = _pairs(raw_fields[:6])
    return DeadLetter(
        id=raw_id.decode(),
        message_id=own[b"id"].decode(),
        reason=own[b"reason"].decode(errors="replace"),
        deliveries=int(own[b"deliveries"]),
        fields={
            name.decode(errors="replace"): value for name, value in _pairs(raw_fields[6:]).items()
        },
    )


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


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
