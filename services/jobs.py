"""Embedding jobs: submitted, looked at, cancelled, resumed; what the command line and HTTP share.

A job is submitted in three steps, and may be taken up after any of them: its folder is written,
Redis is told of it, its chunks are given to the workers. Whoever asks for the same again while a
job of it is not done goes on with that job.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from encoders.encoder import Encoder
from infra.dead_letters import DeadLetters
from infra.errors import RecsysError
from infra.redis import AsyncRedis
from infra.settings import Settings
from recsys.data.dataset import read_info
from recsys.embedding_store import EmbeddingStore
from services.job_folder import JobFolder, JobSpec, Report, SpaceReport, SpaceSpec
from services.job_ledger import SEAL, SLICE, Ledger, Standing, Task, chunk_body, seal_body
from services.spool import CHUNK, Progress, Request, spool

PAUSE_S = 0.5
"""Before it is tried again to publish, where there was no room."""

LISTED = 100
"""The most jobs in a list: the newest."""

LETTERS = 1000
"""Dead letters that are looked through for those of a job that is resumed."""


class JobState(StrEnum):
    SUBMITTING = "submitting"
    """Not all chunks are given to the workers; if the submitter is gone, to be resumed."""

    QUEUED = "queued"
    RUNNING = "running"
    SEALING = "sealing"
    DONE = "done"
    FAILED = "failed"
    """Some chunk was given up; to be resumed once the reason is gone."""

    CANCELLED = "cancelled"


ENDED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
"""States in which nothing happens by itself."""


class JobSpace(BaseModel):
    """A job in one space."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    space: str
    model: str
    fingerprint: str
    contents: int
    """Different ones that are to be embedded."""

    known: int
    """Items whose content was embedded before."""

    absent: int
    """Items that have no such content."""

    unreadable: int
    """Items whose content could not be read."""

    version: str | None
    """The content bundle that it became, once the job is done."""

    vectors: int | None
    """Items of that bundle."""

    problems: int | None
    """Items that have a content and no vector, once the job is done."""

    left: int | None
    """Live items of the version before that are not in that bundle, since another encoder embedded
    them: to be put in again."""


class Job(BaseModel):
    """A job as it stands."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    state: JobState
    created: datetime
    dataset: str
    items: int
    spaces: list[JobSpace]
    contents: int
    """To be embedded."""

    embedded: int
    """Of these, how many are done."""

    problems: int
    """Of these, how many have no vector, such as a file that is no picture; as far as Redis
    remembers."""

    rate: float | None
    """Contents a second since the first chunk was begun."""

    seconds_left: float | None
    failures: dict[str, str]
    """Why a chunk was given up, by its number; or the sealing."""


class Encoders(Protocol):
    """Who finds encoders."""

    def open(self, space: str, model: str) -> Encoder[Any]: ...

    def fingerprint(self, space: str, model: str) -> str: ...


class RefusedDataset(RecsysError):
    """A Dataset that lies where none may be read."""


class Jobs:
    """The embedding jobs of one state folder and namespace."""

    def __init__(
        self,
        redis: AsyncRedis,
        settings: Settings,
        encoders: Encoders,
        *,
        datasets: Sequence[Path] | None = None,
    ) -> None:
        """datasets: the folders under which a Dataset must lie; anywhere if it is None."""
        self.ledger = Ledger(redis, settings)
        self._dead = DeadLetters(redis, self.ledger.stream)
        self._settings = settings
        self._encoders = encoders
        self._datasets = None if datasets is None else [each.resolve() for each in datasets]

    async def submit(
        self,
        dataset: Path,
        models: dict[str, str],
        *,
        chunk: int | None = None,
        progress: Progress | None = None,
    ) -> Job:
        """Have the items of a Dataset embedded; the job, all of whose chunks are published.

        models: by space. chunk: the most contents in a chunk; by default what suits the space.
        progress: called with how many items were read, and how many there are.
        Raises NoDataset, RefusedDataset, NothingToEmbed, what the encoders raise for a model that
        is not there, and RedisUnavailable; after that the same call goes on.
        """
        dataset = dataset.resolve()
        if self._datasets is not None and not any(map(dataset.is_relative_to, self._datasets)):
            raise RefusedDataset(
                f"{dataset} is not under a folder that datasets may be read from: "
                + ", ".join(map(str, self._datasets))
            )
        requests = await asyncio.to_thread(self._requests, models, chunk)
        folder = await self._unfinished(dataset, requests)
        if folder is None:
            stores = {r.space: self._store(r.space, r.fingerprint) for r in requests}
            left = threading.Event()

            def told(done: int, whole: int | None) -> None:
                if left.is_set():
                    raise asyncio.CancelledError
                if progress is not None:
                    progress(done, whole)

            arguments = (self._settings.jobs_dir, dataset, requests, stores, told)
            try:
                folder = await asyncio.to_thread(spool, *arguments)
            finally:
                left.set()  # a thread is not cancelled along: it ends where it tells of itself
        return await self.resume(folder.id)

    async def resume(self, job: str) -> Job:
        """Go on with a job: what was not submitted, was cancelled, or failed. Nothing that is done
        is done again. Raises NoJob, RedisUnavailable."""
        folder = self._folder(job)
        spec = folder.spec()
        if folder.report() is None:
            await self.ledger.register(job, spec.chunks)
            standing = await self.ledger.standing(job)
            missed = {} if standing is None else standing.missed
            await self.ledger.again(
                job, [(chunk, _body(folder, spec, chunk)) for chunk in sorted(missed)]
            )
            await self._drop_letters(job)
            start = 0 if standing is None else standing.published
            while True:
                stop = min(start + SLICE, spec.chunks)
                bodies = [_body(folder, spec, str(chunk)) for chunk in range(start, stop)]
                reached = await self.ledger.publish(job, start, bodies)
                if reached >= spec.chunks:
                    break
                if reached < stop:
                    await asyncio.sleep(PAUSE_S)
                start = reached
        return await self.get(job)

    async def cancel(self, job: str) -> Job:
        """Have the workers pass over what is left; what they hold they finish. Nothing happens to
        a job that has ended. Raises NoJob, RedisUnavailable."""
        folder = self._folder(job)
        spec = folder.spec()
        if folder.report() is None:
            await self.ledger.register(job, spec.chunks)
            await self.ledger.cancel(job)
        return await self.get(job)

    async def get(self, job: str) -> Job:
        """The job as it stands. Raises NoJob, RedisUnavailable."""
        folder = self._folder(job)
        return _job(folder.spec(), folder.report(), await self.ledger.standing(job))

    async def newest(self) -> list[Job]:
        """The newest jobs, newest first. Raises NoJob for one that cannot be read, and
        RedisUnavailable."""
        return [await self.get(folder.id) for folder in self._folders()]

    def problems(self, job: str) -> list[dict[str, str]]:
        """`item_id`, `space` and `reason` of the items that have a content and no vector; none
        before the job is done. Raises NoJob."""
        folder = self._folder(job)
        folder.spec()
        return [] if folder.report() is None else folder.problems()

    def _folder(self, job: str) -> JobFolder:
        return JobFolder.named(self._settings.jobs_dir, job)

    def _folders(self) -> list[JobFolder]:
        names = (path.parent.name for path in self._settings.jobs_dir.glob("[0-9]*/job.json"))
        return [self._folder(name) for name in sorted(names, reverse=True)[:LISTED]]

    def _store(self, space: str, fingerprint: str) -> EmbeddingStore:
        return EmbeddingStore(self._settings.embeddings_dir, space, fingerprint)

    def _requests(self, models: dict[str, str], chunk: int | None) -> list[Request]:
        requests = []
        for space, model in models.items():
            folder = Path(model).expanduser()
            whole = str(folder.resolve()) if folder.is_dir() else model
            fingerprint = self._encoders.fingerprint(space, whole)
            requests.append(Request(space, whole, fingerprint, chunk or CHUNK[space]))
        return requests

    async def _unfinished(self, dataset: Path, requests: Sequence[Request]) -> JobFolder | None:
        """The job that is to do just this and is neither done nor cancelled."""
        fingerprint = read_info(dataset).fingerprint
        for folder in self._folders():
            spec = folder.spec()
            asked = [Request(s.space, s.model, s.fingerprint, s.chunk) for s in spec.spaces]
            if (spec.dataset, spec.data_fingerprint, asked) == (dataset, fingerprint, requests):
                state = _state(spec, folder.report(), await self.ledger.standing(folder.id))
                if state not in (JobState.DONE, JobState.CANCELLED):
                    return folder
        return None

    async def _drop_letters(self, job: str) -> None:
        """Drop the dead letters of a job whose chunks are tried again."""
        letters = await self._dead.newest(LETTERS)
        mine = [each.id for each in letters if _is_of(job, each.fields.get("body", b""))]
        await self._dead.drop(mine)


def _is_of(job: str, body: bytes) -> bool:
    try:
        return Task.load(body).job == job
    except (ValueError, KeyError, TypeError):
        return False


def _body(folder: JobFolder, spec: JobSpec, chunk: str) -> bytes:
    if chunk == SEAL:
        return seal_body(spec.id)
    item_ids = folder.todo(int(chunk))["item_id"].to_pylist()
    return chunk_body(spec.id, int(chunk), spec.space_of(int(chunk)).space, item_ids)


def _job(spec: JobSpec, report: Report | None, standing: Standing | None) -> Job:
    state = _state(spec, report, standing)
    spaces = {} if report is None else report.spaces
    embedded = 0 if standing is None else standing.contents
    rate = left = None
    if standing is not None and standing.seconds > 0:
        rate = standing.contents / standing.seconds
        left = (spec.contents - standing.contents) / rate if state == JobState.RUNNING else None
    return Job(
        id=spec.id,
        state=state,
        created=spec.created,
        dataset=str(spec.dataset),
        items=spec.items,
        spaces=[_space(each, spaces.get(each.space)) for each in spec.spaces],
        contents=spec.contents,
        embedded=spec.contents if report is not None else embedded,
        problems=0 if standing is None else standing.problems,
        rate=rate,
        seconds_left=left,
        failures={} if standing is None or state == JobState.CANCELLED else standing.missed,
    )


def _space(spec: SpaceSpec, report: SpaceReport | None) -> JobSpace:
    return JobSpace(
        **spec.model_dump(exclude={"chunk", "first", "chunks"}),
        version=None if report is None else report.version,
        vectors=None if report is None else report.items,
        problems=None if report is None else report.problems,
        left=None if report is None else report.left,
    )


def _state(spec: JobSpec, report: Report | None, standing: Standing | None) -> JobState:
    if report is not None:
        return JobState.DONE
    if standing is None:
        return JobState.SUBMITTING
    if standing.cancelled:
        return JobState.CANCELLED
    if standing.published < spec.chunks:
        return JobState.SUBMITTING
    failed = len(standing.missed.keys() - {SEAL})
    if SEAL in standing.missed or (failed and standing.done + failed >= spec.chunks):
        return JobState.FAILED
    if standing.done == spec.chunks:
        return JobState.SEALING
    return JobState.RUNNING if standing.done else JobState.QUEUED
