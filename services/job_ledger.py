"""The ledger of embedding jobs in Redis: how far each is, and the stream of their chunks.

    <namespace>:jobs:embed          stream, read by workers: {"job", "chunk"}; the chunk is "seal"
                                    once all others are done
    <namespace>:job:<id>            hash: chunks, published, done, contents, problems, cancelled, …
    <namespace>:job:<id>:done       bitmap of the chunks that are done
    <namespace>:job:<id>:missed     hash: chunk → why nobody tries it any more
    <namespace>:workers             sorted set of the workers by when they were heard of

The ledger may be lost: what is done lies in files, and a job that is resumed is registered anew.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

from infra.queue import UNBOUNDED, Queue
from infra.redis import AsyncRedis, reaching
from infra.settings import DAY_S, Settings
from services import job_scripts as scripts
from services.job_folder import JobFolder, NoJob
from services.job_scripts import CANCELLED, DONE_BEFORE, GO, SEAL, UNKNOWN

__all__ = ["CANCELLED", "DONE_BEFORE", "GO", "SEAL", "UNKNOWN", "Ledger", "Standing", "Task"]

KEPT_S = 30 * DAY_S
"""Seconds that Redis remembers a job in which nothing happens."""

ENDED_S = 7 * DAY_S
"""Seconds that Redis remembers a job that has ended."""

HEARD_MS = 15_000
"""Milliseconds after which a worker that is not heard of is none."""

NAMED_BYTES = 1 << 15
"""The most bytes of item ids that the reason of a dead letter names."""

REASON_LENGTH = 500
"""Characters that are kept of why a chunk failed."""


@dataclass(frozen=True)
class Task:
    """A message: one chunk of a job, or its sealing."""

    job: str
    chunk: int | None
    """None for the sealing."""

    @classmethod
    def load(cls, body: bytes) -> Task:
        fields = orjson.loads(body)
        chunk = fields["chunk"]
        return cls(str(fields["job"]), None if chunk == SEAL else int(chunk))

    @property
    def field(self) -> str:
        """The chunk as the ledger writes it."""
        return SEAL if self.chunk is None else str(self.chunk)


@dataclass(frozen=True)
class Standing:
    """How far a job is, as Redis knows it."""

    published: int
    """Chunks that were given to the workers."""

    done: int
    contents: int
    """In the chunks that are done."""

    problems: int
    """Of these, contents that have no vector."""

    cancelled: bool
    sealed: bool
    missed: dict[str, str]
    """Why a chunk, or the sealing, is not tried any more."""

    fresh: int
    """Contents that were embedded since the job was last submitted or resumed."""

    seconds: float
    """Since then, between the first chunk's beginning and the last one's end, so far."""


class Ledger:
    """The jobs of one namespace."""

    def __init__(self, redis: AsyncRedis, settings: Settings) -> None:
        self.stream = f"{settings.namespace}:jobs:embed"
        self._redis = redis
        self._settings = settings
        self._prefix = f"{settings.namespace}:job"
        self._workers = f"{settings.namespace}:workers"
        self._resume: Any = redis.register_script(scripts.RESUME)
        self._begin: Any = redis.register_script(scripts.BEGIN)
        self._done: Any = redis.register_script(scripts.DONE)
        self._sealed: Any = redis.register_script(scripts.SEALED)
        self._missed: Any = redis.register_script(scripts.MISSED)
        self._cancel: Any = redis.register_script(scripts.CANCEL)
        self._attend: Any = redis.register_script(scripts.ATTEND)

    def queue(self) -> Queue:
        """The stream as one worker reads it. Nothing in it is refused: nobody would ask again, and
        a job has no more of its chunks in it than the backlog allows."""
        return Queue(
            self._redis,
            self.stream,
            visibility_timeout_s=self._settings.visibility_timeout_s,
            max_deliveries=self._settings.max_deliveries,
            max_backlog=UNBOUNDED,
            reply_ttl_s=self._settings.reply_ttl_s,
            on_bury=self._on_bury,
        )

    async def resume(self, job: str, chunks: int) -> None:
        """Begin the job, or go on with what is missing of it. Raises RedisUnavailable, as
        everything here."""
        await self._run(self._resume, job, chunks)

    async def begin(self, task: Task) -> int:
        """GO, CANCELLED, DONE_BEFORE or UNKNOWN."""
        return await self._run(self._begin, task.job, task.field)

    async def done(self, job: str, chunk: int, *, contents: int, problems: int, fresh: int) -> None:
        """Count a chunk whose vectors are written, and give out what comes next.

        fresh: how many of its contents were embedded just now."""
        await self._run(self._done, job, chunk, contents, problems, fresh)

    async def sealed(self, job: str) -> None:
        """The job has ended well."""
        await self._run(self._sealed, job, ttl_s=ENDED_S)

    async def cancel(self, job: str, chunks: int) -> bool:
        """Have the workers pass over what is left of it; False if it has ended."""
        return await self._run(self._cancel, job, chunks) == 1

    async def standing(self, job: str) -> Standing | None:
        """How far it is; None if Redis does not know it."""
        _, key, _, missed = self._keys(job)
        with reaching(self._redis):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hgetall(key)
                pipe.hgetall(missed)
                fields, reasons = await pipe.execute()
        if not fields:
            return None
        number = {name.decode(): int(value) for name, value in fields.items()}
        began = number.get("began_ms", 0)
        return Standing(
            published=number["published"],
            done=number["done"],
            contents=number["contents"],
            problems=number["problems"],
            cancelled="cancelled" in number,
            sealed="sealed" in number,
            missed={name.decode(): why.decode(errors="replace") for name, why in reasons.items()},
            fresh=number.get("fresh", 0),
            seconds=(number.get("updated_ms", began) - began) / 1000,
        )

    async def attend(self, worker: str) -> None:
        """Let a worker be heard of; to be called every few seconds."""
        with reaching(self._redis):
            await self._attend(keys=[self._workers], args=[worker, HEARD_MS])

    async def leave(self, worker: str) -> None:
        """The worker ends."""
        with reaching(self._redis):
            await self._redis.zrem(self._workers, worker)

    async def workers(self) -> int:
        """How many workers there are."""
        with reaching(self._redis):
            return int(await self._attend(keys=[self._workers], args=["", HEARD_MS]))

    async def _on_bury(self, body: bytes, reason: str) -> str:
        try:
            task = Task.load(body)
        except (ValueError, KeyError, TypeError):
            return reason  # it is no job's: the dead letter alone tells of it
        await self._run(self._missed, task.job, task.field, reason[:REASON_LENGTH])
        return reason + await asyncio.to_thread(self._items_of, task)

    def _items_of(self, task: Task) -> str:
        """Which items a dead letter is about, as many as there is room for."""
        if task.chunk is None:
            return ""
        try:
            folder = JobFolder.named(self._settings.jobs_dir, task.job)
            ids = folder.todo(task.chunk)[1]["item_id"].to_pylist()
        except NoJob:
            return ""
        named, size = 0, 0
        while named < len(ids) and size <= NAMED_BYTES:
            size += len(ids[named].encode())
            named += 1
        more = f" and {len(ids) - named:,} more" if named < len(ids) else ""
        return f" (the items {', '.join(ids[:named])}{more})"

    async def _run(self, script: Any, job: str, *args: str | int, ttl_s: int = KEPT_S) -> int:
        with reaching(self._redis):
            most = self._settings.max_backlog
            return int(await script(keys=self._keys(job), args=[ttl_s, job, most, *args]))

    def _keys(self, job: str) -> list[str]:
        key = f"{self._prefix}:{job}"
        return [self.stream, key, f"{key}:done", f"{key}:missed"]
