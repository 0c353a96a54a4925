"""What a worker does with a message of the embedding jobs: a chunk embedded, a job sealed.

A chunk's vectors are in the store, durably, before the ledger counts it and its message is
acknowledged. A worker that dies in between leaves the message to another, who finds the part there
and does nothing but count it. What fails for a reason that is not the contents' raises, and the
message is tried again. What another worker has in hand is left for later: one that hangs over a
chunk holds up neither the others nor whoever stops them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoders.catalog import fingerprint_of, open_encoder
from encoders.encoder import Encoder
from infra.errors import RecsysError
from infra.roots import Unreadable
from infra.settings import Settings
from infra.storage import exclusive
from recsys.embedding_store import EmbeddingStore
from services.consumer import NotYet
from services.contents import Contents, content_hash
from services.job_folder import JobFolder, SpaceSpec
from services.job_ledger import CANCELLED, GO, UNKNOWN, Ledger, Task
from services.jobs import Encoders
from services.live_items import LiveItems
from services.patience import Patience, in_batches
from services.sealing import seal_job

logger = logging.getLogger(__name__)


class OtherEncoder(RecsysError):
    """The files of an encoder are not those that vectors were, or are to be, made by."""


class CatalogEncoders:
    """The encoders of the catalog; of each space the one that was used last is kept."""

    def __init__(self, device: str | None = None) -> None:
        """device: as torch names it; a GPU where there is one if it is None."""
        self._device = device
        self._open: dict[str, Encoder[Any]] = {}
        self._lock = threading.Lock()

    def open(self, space: str, model: str, fingerprint: str) -> Encoder[Any]:
        """Threads may ask at once; an encoder may be shared by them."""
        with self._lock:
            encoder = self._open.get(space)
            if encoder is not None and encoder.fingerprint == fingerprint:
                return encoder
            if encoder is None or encoder.fingerprint != fingerprint_of(space, model):
                self._open.pop(space, None)
                del encoder  # its memory is free before the next one's is taken
                encoder = self._open[space] = open_encoder(space, model, device=self._device)
            return encoder

    def fingerprint(self, space: str, model: str) -> str:
        return fingerprint_of(space, model)


def encoder_of(encoders: Encoders, space: str, model: str, fingerprint: str) -> Encoder[Any]:
    """The model whose vectors have that fingerprint; raises OtherEncoder where the files of its
    name are others by now, and what opening raises."""
    encoder = encoders.open(space, model, fingerprint)
    if encoder.fingerprint != fingerprint:
        raise OtherEncoder(
            f"the encoder {model!r} of the fingerprint {fingerprint} is asked for, and the one of "
            f"that name here has {encoder.fingerprint}: put its files back, or embed anew with "
            "`recsys embed`"
        )
    return encoder


class Embedding:
    """Answers the messages of the embedding jobs."""

    def __init__(
        self, ledger: Ledger, live: LiveItems, settings: Settings, encoders: Encoders
    ) -> None:
        self._live = live
        self._ledger = ledger
        self._settings = settings
        self._encoders = encoders

    async def answer(self, bodies: Sequence[bytes]) -> list[None]:
        """Do what the messages ask for; raises what keeps it from being done."""
        for body in bodies:
            await self._do(Task.load(body))
        return [None] * len(bodies)

    async def _do(self, task: Task) -> None:
        begun = await self._ledger.begin(task)
        if begun == UNKNOWN:
            logger.warning(
                "Redis does not know the job %s any more; `recsys jobs resume` takes it up again",
                task.job,
            )
        elif begun == CANCELLED:
            logger.info("%s of the cancelled job %s is passed over", task.field, task.job)
        if begun != GO:
            return
        folder = JobFolder.named(self._settings.jobs_dir, task.job)
        if task.chunk is None:
            with _alone(folder.sealing_lock, task):
                await seal_job(folder, self._settings, self._live)
            await self._ledger.sealed(task.job)
            folder.tidy()
        else:
            spec = folder.spec()
            # Another job may have the same chunk, or another worker the same message.
            with _alone(folder.todo_path(task.chunk), task):
                contents, problems, fresh = await asyncio.to_thread(
                    self._embed, folder, task.chunk, spec.space_of(task.chunk)
                )
            await self._ledger.done(
                task.job, task.chunk, contents=contents, problems=problems, fresh=fresh
            )

    def _embed(self, folder: JobFolder, chunk: int, space: SpaceSpec) -> tuple[int, int, int]:
        """Write the chunk's part unless it is there; how many contents it has, how many of them
        have no vector, and how many were embedded just now."""
        store = EmbeddingStore(self._settings.embeddings_dir, space.space, space.fingerprint)
        header, todo = folder.todo(chunk)
        part = store.open(header.part)
        if part is not None:
            return len(part.hashes), int((~part.has_vector).sum()), 0
        encoder = encoder_of(self._encoders, space.space, space.model, space.fingerprint)
        contents = Contents(header.dataset)
        vectors, problems = encode(encoder, contents, todo["content"], todo["hash"])
        store.write(header.part, todo["hash"].combine_chunks(), vectors, problems)
        return len(todo), len(problems), len(todo)


@contextmanager
def _alone(lock: Path, task: Task) -> Iterator[None]:
    """Hold the lock of what the task is about; raises NotYet where another worker does."""
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(lock))
        except BlockingIOError:
            raise NotYet(
                f"another worker has {task.field} of the job {task.job} in hand; if none goes on "
                f"with it, end the process that holds {lock}"
            ) from None
        yield


def encode(
    encoder: Encoder[Any], contents: Contents, named: pa.ChunkedArray, hashes: pa.ChunkedArray
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Float32[n, D], and by row why a content has none.

    named: String[n], texts or URIs. hashes: Binary(16)[n], of what the job is about: a picture
    that is another one by now has no vector. Raises Unreached where one cannot be read for now.
    """
    vectors = np.zeros((len(named), encoder.dim), np.float32)
    problems: dict[int, str] = {}

    def read() -> Iterator[tuple[int, str | bytes]]:
        """What is encoded, by row."""
        for row, (name, hash_) in enumerate(
            zip(named.to_pylist(), hashes.to_pylist(), strict=True)
        ):
            try:
                content = contents.read(encoder.space, name)
            except Unreadable as error:
                problems[row] = error.message
                continue
            if content_hash(content) != hash_:
                problems[row] = f"{name!r} was changed after the job was submitted: submit anew"
                continue
            yield row, name if encoder.space == "text" else content

    patience = Patience()
    for batch in in_batches(read(), lambda each: len(each[1])):
        rows = [row for row, _ in batch]
        vectors[rows], failures = patience.encode(encoder, [content for _, content in batch])
        problems.update({rows[each]: why for each, why in failures.items()})
    patience.settle()
    return vectors, problems
