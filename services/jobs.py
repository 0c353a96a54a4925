"""Embedding jobs: submitted, looked at, cancelled, resumed, removed; what the command line and
HTTP share.

A job is submitted in two steps, and may be taken up after the first: its folder is written, and
Redis gives its chunks to the workers, the next ones as others are done. Whoever asks for the same
again while a job of it is not done goes on with that job.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from encoders.checkpoint import folder_of
from encoders.encoder import Encoder
from infra.dead_letters import DeadLetters
from infra.errors import RecsysError
from infra.redis import AsyncRedis
from infra.settings import Settings
from infra.storage import exclusive_in_turn
from recsys.data.dataset import read_info
from recsys.embedding_store import EmbeddingStore
from services.allowed_models import check_models
from services.job_folder import JobFolder, NoJob, sweep
from services.job_ledger import Ledger, Task
from services.job_plan import CHUNK, Request
from services.job_status import ENDED, Job, JobState, job_of, state_of
from services.spool import Progress, spool

__all__ = ["ENDED", "Encoders", "Job", "JobState", "Jobs", "NotEnded", "RefusedDataset"]

logger = logging.getLogger(__name__)

LOCK = ".submitting"
"""In the folder of the jobs; held by whoever writes the folder of a new one."""

LISTED = 100
"""The most jobs in a list: the newest."""

LETTERS = 1000
"""Dead letters that are looked through for those of a job that is resumed."""


class Encoders(Protocol):
    """Who finds encoders."""

    def open(self, space: str, model: str, fingerprint: str) -> Encoder[Any]:
        """The model of that name; as its files are now, unless one of the fingerprint that is
        asked for is open."""
        ...

    def fingerprint(self, space: str, model: str) -> str:
        """The one that the model has as its files are now."""
        ...


class NotEnded(RecsysError):
    """A job that may not be removed, since it is being worked on."""


class RefusedDataset(RecsysError):
    """A Dataset that lies where none may be read, or nowhere."""


class Jobs:
    """The embedding jobs of one state folder and namespace."""

    def __init__(
        self,
        redis: AsyncRedis,
        settings: Settings,
        encoders: Encoders,
        *,
        datasets: Sequence[Path] | None = None,
        models: Sequence[str] | None = None,
    ) -> None:
        """datasets: the folders under which a Dataset must lie; anywhere if it is None.
        models: those that may be named beside the default one; any if it is None."""
        self.ledger = Ledger(redis, settings)
        self._dead = DeadLetters(redis, self.ledger.stream)
        self._settings = settings
        self._encoders = encoders
        self._datasets = None if datasets is None else [each.resolve() for each in datasets]
        self._models = models

    async def submit(
        self,
        dataset: Path,
        models: dict[str, str],
        *,
        chunk: int | None = None,
        progress: Progress | None = None,
    ) -> Job:
        """Have the items of a Dataset embedded by the workers; the job.

        models: by space. chunk: the most contents in a chunk; by default what suits the space.
        progress: called with how many items were read, and how many there are.
        Raises NoDataset, RefusedDataset, RefusedModel, NothingToEmbed, what the encoders raise for
        a model that is not there, BrokenPart where a file of the store is damaged, Unreached where
        contents cannot be read for now, and RedisUnavailable; after these two the same call goes
        on.
        """
        dataset = await asyncio.to_thread(self._allowed, dataset)
        if self._models is not None:
            check_models(models, self._models)
        requests = await asyncio.to_thread(self._requests, models, chunk)
        self._settings.jobs_dir.mkdir(parents=True, exist_ok=True)
        async with exclusive_in_turn(self._settings.jobs_dir / LOCK):
            await asyncio.to_thread(sweep, self._settings.jobs_dir)
            folder = await self._unfinished(dataset, requests)
            if folder is None:
                folder = await self._spooled(dataset, requests, progress)
            return await self.resume(folder.id)

    async def resume(self, job: str) -> Job:
        """Go on with a job: what was not submitted, was cancelled, or failed. Nothing that is done
        is done again. Raises NoJob, RedisUnavailable."""
        folder = self._folder(job)
        spec = folder.spec()
        if folder.report() is None:
            await self.ledger.resume(job, spec.chunks)
            await self._drop_letters(job)
        return await self.get(job)

    async def cancel(self, job: str) -> Job:
        """Have the workers pass over what is left; what they hold they finish. Nothing happens to
        a job that has ended. Raises NoJob, RedisUnavailable."""
        folder = self._folder(job)
        spec = folder.spec()
        if folder.report() is None:
            await self.ledger.cancel(job, spec.chunks)
        return await self.get(job)

    async def remove(self, job: str) -> None:
        """Delete the files of a job in which nothing happens any more; the vectors stay. Raises
        NoJob, NotEnded, RedisUnavailable."""
        folder = self._folder(job)
        spec = folder.spec()
        async with exclusive_in_turn(self._settings.jobs_dir / LOCK):  # nobody goes on with it
            state = (await self.get(job)).state
            if state not in ENDED:
                raise NotEnded(
                    f"the job {job} is {state}: wait for its end, or cancel it first with "
                    f"`recsys jobs cancel {job}`"
                )
            if state != JobState.DONE:
                await self.ledger.cancel(job, spec.chunks)
                await self._drop_letters(job)
            try:
                await asyncio.to_thread(folder.remove)
            except BlockingIOError:
                raise NotEnded(f"the job {job} is being sealed: try again in a while") from None

    async def get(self, job: str) -> Job:
        """The job as it stands. Raises NoJob, RedisUnavailable."""
        folder = self._folder(job)
        return job_of(folder.spec(), folder.report(), await self.ledger.standing(job))

    async def newest(self) -> list[Job]:
        """The newest jobs, newest first; one that cannot be read is left out, and warned of.
        Raises RedisUnavailable."""
        jobs = []
        for folder in self._folders():
            try:
                jobs.append(await self.get(folder.id))
            except NoJob as error:
                logger.warning("%s", error)
        return jobs

    def problems(self, job: str) -> list[dict[str, str]]:
        """`item_id`, `space` and `reason` of the items that have a content and no vector; none
        before the job is done. Raises NoJob."""
        folder = self._folder(job)
        folder.spec()
        return [] if folder.report() is None else folder.problems()

    async def _spooled(
        self, dataset: Path, requests: Sequence[Request], progress: Progress | None
    ) -> JobFolder:
        """The folder of a new job; the lock must be held."""
        stores = {r.space: self._store(r.space, r.fingerprint) for r in requests}
        left = threading.Event()

        def told(done: int, whole: int | None) -> None:
            if left.is_set():
                raise asyncio.CancelledError
            if progress is not None:
                progress(done, whole)

        arguments = (self._settings.jobs_dir, dataset, requests, stores, told)
        spooling = asyncio.create_task(asyncio.to_thread(spool, *arguments))
        try:
            return await asyncio.shield(spooling)
        finally:
            left.set()  # a thread is not cancelled along: it ends where it tells of itself
            await asyncio.wait([spooling])

    def _allowed(self, dataset: Path) -> Path:
        """Where the Dataset lies, after links; raises RefusedDataset, which does not tell it."""
        try:
            place = dataset.resolve()
        except RuntimeError:
            raise RefusedDataset(f"{dataset} is a link that leads back to itself") from None
        if self._datasets is not None and not any(map(place.is_relative_to, self._datasets)):
            raise RefusedDataset(
                f"{dataset} is not under a folder that datasets may be read from: "
                + ", ".join(map(str, self._datasets))
            )
        return place

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
            whole = str(folder_of(model) or model)
            fingerprint = self._encoders.fingerprint(space, whole)
            requests.append(Request(space, whole, fingerprint, chunk or CHUNK[space]))
        return requests

    async def _unfinished(self, dataset: Path, requests: Sequence[Request]) -> JobFolder | None:
        """The job that is to do just this and is neither done nor cancelled."""
        fingerprint = read_info(dataset).fingerprint
        for folder in self._folders():
            try:
                spec, report = folder.spec(), folder.report()
            except NoJob as error:
                logger.warning("%s", error)
                continue
            asked = [Request(s.space, s.model, s.fingerprint, s.chunk) for s in spec.spaces]
            if (spec.dataset, spec.data_fingerprint, asked) == (dataset, fingerprint, requests):
                state = state_of(spec, report, await self.ledger.standing(folder.id))
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
