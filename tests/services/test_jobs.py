"""Embedding jobs on a real Redis, with workers in the same process and encoders that cost nothing.

What happens when processes are killed, tests/faults/test_embedding.py tells.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from encoders.encoder import Encoded, Encoder
from encoders.text_input import MAX_TEXT
from infra.redis import AsyncRedis, connect_async
from infra.settings import Settings
from infra.storage import exclusive
from recsys.content_bundle import CONTENT_SCHEMA, LIVE, ContentBundle, seal_content
from recsys.data.dataset import ITEMS_SCHEMA, NoDataset, write_dataset
from recsys.registry import Spaces
from recsys.retrieval.index import Asked, Index
from services import folding, live_items
from services.embedding import Embedding
from services.folding import reindex_space
from services.item_schemas import Item, ItemState
from services.job_folder import JobFolder, NoJob, Report
from services.job_ledger import SEAL
from services.job_plan import NothingToEmbed
from services.jobs import ENDED, LOCK, Job, Jobs, JobState, NotEnded, RefusedDataset
from services.live_items import LiveItems, puts_of
from services.worker import Worker
from tests.hashing_encoder import HashingEncoders
from tests.withheld import withheld

TEXT = {"text": "hashing-32"}


def films(folder: Path, titles: Sequence[str], images: Sequence[str | None] | None = None) -> Path:
    """A Dataset of films f0, f1, …; their texts are their titles."""
    n = len(titles)
    columns = {
        "item_id": [f"f{i}" for i in range(n)],
        "title": list(titles),
        "text": [None] * n,
        "image": [None] * n if images is None else list(images),
        "tags": [None] * n,
        "attributes": [None] * n,
        "available": [True] * n,
    }
    write_dataset(folder, [], pa.table(columns, schema=ITEMS_SCHEMA), "a test")
    return folder


class Desk:
    """Jobs in a namespace and a state folder of their own."""

    def __init__(self, redis: AsyncRedis, namespace: str, folder: Path) -> None:
        self.redis = redis
        self.namespace = namespace
        self.folder = folder
        self.settings = Settings(
            state_dir=folder / "state",
            namespace=namespace,
            visibility_timeout_s=1,
            max_deliveries=2,
            max_backlog=4,
        )
        self.encoders = HashingEncoders()
        self.jobs = Jobs(redis, self.settings, self.encoders)
        self.live = LiveItems(redis, namespace, max_backlog=4)
        self.stream = self.jobs.ledger.stream

    @asynccontextmanager
    async def worker(self, encoders: HashingEncoders | None = None) -> AsyncIterator[None]:
        """Runs for the block."""
        ledger, stop = self.jobs.ledger, asyncio.Event()
        embedding = Embedding(ledger, self.live, self.settings, encoders or self.encoders)
        worker = Worker([(ledger.queue(), embedding.answer, 1)], ledger, self.settings)
        running = asyncio.create_task(worker.run(stop))
        try:
            yield
        finally:
            stop.set()
            await running

    async def ended(self, job: Job) -> Job:
        until = time.monotonic() + 30
        while (job := await self.jobs.get(job.id)).state not in ENDED:
            assert time.monotonic() < until, job
            await asyncio.sleep(0.02)
        return job

    async def done(self, data: Path, models: dict[str, str] = TEXT, chunk: int = 3) -> Job:
        """A job that is submitted and worked on until it has ended."""
        async with self.worker():
            return await self.ended(await self.jobs.submit(data, models, chunk=chunk))

    async def emptied(self) -> None:
        """Wait until nothing waits in the stream."""
        while await self.redis.xlen(self.stream):
            await asyncio.sleep(0.02)

    def bundle(self, space: str = "text") -> ContentBundle:
        return Spaces(self.settings.spaces_dir).open(space)

    def vectors(self, space: str = "text") -> NDArray[np.float32]:
        """Float32[N, D], in service; a copy."""
        bundle = self.bundle(space)
        return bundle.vectors.copy()

    def ids(self, space: str = "text") -> list[str]:
        ids: list[str] = self.bundle(space).items.to_arrow().to_pylist()
        return ids


Story = Callable[[Desk], Awaitable[None]]
Play = Callable[[Story], None]


@pytest.fixture
def play(redis_url: str, namespace: str, tmp_path: Path) -> Play:
    """Runs a story at a desk."""

    def play(story: Story) -> None:
        async def run() -> None:
            redis = connect_async(redis_url)
            try:
                await asyncio.wait_for(story(Desk(redis, namespace, tmp_path)), 120)
            finally:
                await redis.aclose()

        asyncio.run(run())

    return play


def titles(n: int) -> list[str]:
    """Distinct, and of many lengths, so that chunks are in another order than the catalogue."""
    return [f"film {'x' * (i * 7 % 11)} {i}" for i in range(n)]


def test_every_item_has_the_vector_of_its_text_in_the_order_of_the_catalogue(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.done(films(desk.folder / "films", titles(20)))
        assert (job.state, job.embedded, job.failures) == (JobState.DONE, 20, {})
        bundle = desk.bundle()
        assert desk.ids() == [f"f{i}" for i in range(20)]
        expected = desk.encoders.text("hashing-32").encode(titles(20)).vectors
        np.testing.assert_array_equal(bundle.vectors, expected)
        assert (bundle.manifest.job, bundle.manifest.fingerprint) == (job.id, "hashing-32")
        assert job.spaces[0].version == bundle.version

    play(story)


def test_what_is_alike_is_embedded_once(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", ["one", "two", "one", "two", "one"])
        await desk.done(data)
        assert sorted(desk.encoders.text("hashing-32").seen) == ["one", "two"]
        vectors = desk.vectors()
        assert (vectors[[0, 1, 0, 1, 0]] == vectors).all()

    play(story)


def test_what_was_embedded_before_is_not_embedded_again(play: Play) -> None:
    async def story(desk: Desk) -> None:
        await desk.done(films(desk.folder / "one", ["a", "b", "c", "d"]))
        desk.encoders.text("hashing-32").seen.clear()
        job = await desk.done(films(desk.folder / "two", ["new", "d", "b", "a"]))
        assert desk.encoders.text("hashing-32").seen == ["new"]
        assert (job.contents, job.spaces[0].known) == (1, 3)
        expected = desk.encoders.text("hashing-32").encode(["new", "d", "b", "a"]).vectors
        np.testing.assert_array_equal(desk.vectors(), expected)

    play(story)


def test_another_encoder_embeds_everything_and_its_vectors_do_not_mix(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(5))
        await desk.done(data)
        job = await desk.done(data, {"text": "hashing-16"})
        assert job.spaces[0].known == 0
        assert desk.vectors().shape == (5, 16)

    play(story)


def test_an_item_without_a_vector_is_told_with_its_reason_and_the_others_are_sealed(
    play: Play,
) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.done(films(desk.folder / "films", ["a", "", "it will explode", "b"]))
        assert (job.state, job.spaces[0].problems) == (JobState.DONE, 2)
        assert desk.ids() == ["f0", "f3"]
        reasons = {row["item_id"]: row["reason"] for row in desk.jobs.problems(job.id)}
        assert reasons.keys() == {"f1", "f2"}
        assert reasons["f1"] == "The text is empty."
        assert "this text explodes" in reasons["f2"]

    play(story)


def test_a_text_that_every_encoder_refuses_never_reaches_a_worker(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", ["a", " ", "x" * (MAX_TEXT + 1)])
        job = await desk.done(data)
        assert (job.contents, job.spaces[0].unreadable, job.spaces[0].problems) == (1, 2, 2)
        assert desk.encoders.text("hashing-32").seen == ["a"]
        reasons = {row["item_id"]: row["reason"] for row in desk.jobs.problems(job.id)}
        assert reasons["f1"] == "The text is empty."
        assert "1,048,576 bytes are allowed" in reasons["f2"]
        with pytest.raises(NothingToEmbed, match=r"1 have one that is refused: The text is"):
            await desk.jobs.submit(films(desk.folder / "none", [" "]), TEXT)

    play(story)


def test_large_texts_come_in_smaller_chunks(play: Play) -> None:
    async def story(desk: Desk) -> None:
        large = [f"{i}{'x' * (900 << 10)}" for i in range(20)]
        data = films(desk.folder / "films", [*large, *titles(10)])
        job = await desk.jobs.submit(data, TEXT, chunk=512)
        folder = JobFolder(desk.settings.jobs_dir / job.id)
        todo = [folder.todo(chunk)[1] for chunk in range(folder.spec().chunks)]
        sizes = [pc.sum(pc.binary_length(each["content"])).as_py() for each in todo]
        assert sum(map(len, todo)) == 30
        assert len(todo) == 3
        assert max(sizes) <= 8 << 20

    play(story)


def test_an_item_that_has_two_rows_is_refused_by_its_id(play: Play) -> None:
    async def story(desk: Desk) -> None:
        path = films(desk.folder / "films", titles(4)) / "items.parquet"
        table = pq.read_table(path)
        pq.write_table(pa.concat_tables([table, table.slice(1, 2)]), path)
        with pytest.raises(NoDataset, match=r"items\.parquet has items .* as 'f1', 'f2': leave"):
            await desk.jobs.submit(path.parent, TEXT)
        ids = pa.array(["f0", None, "f2", "f3"])
        pq.write_table(table.drop(["item_id"]).append_column("item_id", ids), path)
        with pytest.raises(NoDataset, match=r"items\.parquet has an item without an id"):
            await desk.jobs.submit(path.parent, TEXT)

    play(story)


def test_pictures_are_read_from_the_folder_of_the_dataset_and_from_nowhere_else(play: Play) -> None:
    async def story(desk: Desk) -> None:
        images = ["red.png", "no.png", None, "file:///etc/passwd", "http://169.254.169.254/", "x"]
        data = films(desk.folder / "films", titles(6), images)
        Image.new("RGB", (8, 8), "red").save(data / "red.png")
        (data / "x").write_bytes(b"no picture")
        job = await desk.done(data, {"image": "colour"})
        (space,) = job.spaces
        assert (space.absent, space.unreadable, space.contents) == (1, 3, 2)
        assert desk.ids("image") == ["f0"]
        reasons = {row["item_id"]: row["reason"] for row in desk.jobs.problems(job.id)}
        assert reasons.keys() == {"f1", "f3", "f4", "f5"}
        assert "no.png" in reasons["f1"]
        assert reasons["f5"] == "The file is no picture."

    play(story)


def test_a_picture_that_is_another_by_now_has_no_vector(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(2), ["red.png", "blue.png"])
        for colour in ("red", "blue"):
            Image.new("RGB", (8, 8), colour).save(data / f"{colour}.png")
        job = await desk.jobs.submit(data, {"image": "colour"})
        Image.new("RGB", (8, 8), "green").save(data / "red.png")
        async with desk.worker():
            job = await desk.ended(job)
        assert desk.ids("image") == ["f1"]
        ((reason),) = (row["reason"] for row in desk.jobs.problems(job.id))
        assert "was changed after the job was submitted" in reason

    play(story)


def test_a_picture_that_cannot_be_read_for_now_is_tried_again(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(2), ["red.png", "blue.png"])
        for colour in ("red", "blue"):
            Image.new("RGB", (8, 8), colour).save(data / f"{colour}.png")
        job = await desk.jobs.submit(data, {"image": "colour"})
        async with desk.worker():
            with withheld(data / "red.png"):
                while "cannot be read for now" not in caplog.text:
                    await asyncio.sleep(0.02)
            job = await desk.ended(job)
        assert job.state == JobState.DONE
        assert desk.ids("image") == ["f0", "f1"]
        assert desk.jobs.problems(job.id) == []

    play(story)


def test_texts_and_pictures_of_one_job_become_two_spaces(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(3), ["red.png"] * 3)
        Image.new("RGB", (8, 8), "red").save(data / "red.png")
        job = await desk.done(data, TEXT | {"image": "colour"})
        assert [each.vectors for each in job.spaces] == [3, 3]
        assert desk.vectors("image").shape == (3, 3)

    play(story)


def test_more_chunks_than_the_backlog_has_room_for_are_given_out_as_others_are_done(
    play: Play,
) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(20))
        job = await desk.jobs.submit(data, TEXT, chunk=1)  # and nobody waits for room
        assert await desk.redis.xlen(desk.stream) == desk.settings.max_backlog == 4
        longest = 0
        async with desk.worker():
            while (job := await desk.jobs.get(job.id)).state not in ENDED:
                longest = max(longest, await desk.redis.xlen(desk.stream))
                await asyncio.sleep(0)
        assert (job.state, job.embedded) == (JobState.DONE, 20)
        assert longest <= 1 + 4, "what is done may not be acknowledged yet"
        assert sorted(desk.encoders.text("hashing-32").seen) == sorted(titles(20))

    play(story)


def test_a_job_whose_chunks_all_fail_stops_where_the_backlog_does_and_can_be_resumed(
    play: Play,
) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(9))
        job = await desk.jobs.submit(data, TEXT, chunk=1)
        async with desk.worker(OtherEncoders()):
            job = await desk.ended(job)
            await desk.emptied()
        assert (job.state, len(job.failures)) == (JobState.FAILED, 4)
        await desk.jobs.resume(job.id)
        async with desk.worker():
            job = await desk.ended(job)
        assert (job.state, job.embedded) == (JobState.DONE, 9)

    play(story)


def test_the_rate_and_the_time_left_are_those_since_the_job_was_resumed(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(20)), TEXT, chunk=1)
        async with desk.worker():
            while (await desk.jobs.get(job.id)).embedded < 3:
                await asyncio.sleep(0.001)
        await asyncio.sleep(2)
        job = await desk.jobs.resume(job.id)
        assert (job.rate, job.seconds_left) == (None, None)
        async with desk.worker():
            job = await desk.ended(job)
        assert job.rate is not None
        assert job.rate > 10, "it was idle for two seconds"

    play(story)


def test_the_same_request_goes_on_with_the_job_that_is_not_done(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(6))
        first = await desk.jobs.submit(data, TEXT, chunk=3)
        again = await desk.jobs.submit(data, TEXT, chunk=3)
        assert again.id == first.id
        assert await desk.redis.xlen(desk.stream) == 2, "nothing is published twice"
        async with desk.worker():
            await desk.ended(first)
        assert (await desk.jobs.submit(data, TEXT, chunk=3)).id != first.id

    play(story)


def test_a_cancelled_job_is_passed_over_by_the_workers_and_keeps_the_lag_readable(
    play: Play,
) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(9)), TEXT, chunk=3)
        await desk.jobs.ledger.queue().backlog()
        assert (await desk.jobs.cancel(job.id)).state == JobState.CANCELLED
        assert await desk.redis.xlen(desk.stream) == 3
        async with desk.worker():
            await desk.emptied()
        assert desk.encoders.text("hashing-32").seen == []
        (group,) = await desk.redis.xinfo_groups(desk.stream)
        assert (group["lag"], group["pending"]) == (0, 0)
        assert (await desk.jobs.get(job.id)).state == JobState.CANCELLED

    play(story)


def test_a_cancelled_job_that_is_resumed_does_what_was_left_and_only_that(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(9)), TEXT, chunk=3)
        seen = desk.encoders.text("hashing-32").seen
        async with desk.worker():
            while not seen:
                await asyncio.sleep(0.001)
            await desk.jobs.cancel(job.id)
            await desk.emptied()
            assert len(seen) < 9
            await desk.jobs.resume(job.id)
            job = await desk.ended(job)
        assert job.state == JobState.DONE
        assert sorted(seen) == sorted(titles(9))

    play(story)


def test_of_two_who_ask_for_the_same_at_once_both_get_the_one_job(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(6))
        elsewhere = Jobs(desk.redis, desk.settings, desk.encoders)
        asking = (jobs.submit(data, TEXT, chunk=3) for jobs in (desk.jobs, elsewhere, desk.jobs))
        assert len({job.id for job in await asyncio.gather(*asking)}) == 1
        assert len(await desk.jobs.newest()) == 1
        assert await desk.redis.xlen(desk.stream) == 2

    play(story)


def test_what_jobs_at_the_same_time_have_in_common_is_embedded_once(play: Play) -> None:
    async def story(desk: Desk) -> None:
        everything = titles(24)
        parts = [everything[:12], everything[6:18], everything]
        data = [films(desk.folder / str(i), part) for i, part in enumerate(parts)]
        jobs = [await desk.jobs.submit(each, TEXT, chunk=3) for each in data]
        async with desk.worker(), desk.worker():
            jobs = [await desk.ended(job) for job in jobs]
        assert {job.state for job in jobs} == {JobState.DONE}
        assert sorted(desk.encoders.text("hashing-32").seen) == sorted(everything)
        for job, part in zip(jobs, parts, strict=True):
            bundle = Spaces(desk.settings.spaces_dir).open(f"text@{job.spaces[0].version}")
            expected = HashingEncoders().text("hashing-32").encode(part).vectors
            np.testing.assert_array_equal(bundle.vectors, expected)

    play(story)


def test_a_job_does_itself_what_it_shares_with_one_that_is_cancelled(play: Play) -> None:
    async def story(desk: Desk) -> None:
        cancelled = await desk.jobs.submit(films(desk.folder / "one", titles(9)), TEXT, chunk=3)
        job = await desk.jobs.submit(films(desk.folder / "two", titles(4)), TEXT, chunk=3)
        await desk.jobs.cancel(cancelled.id)
        shutil.rmtree(desk.settings.jobs_dir / cancelled.id)
        async with desk.worker():
            job = await desk.ended(job)
        assert (job.state, desk.ids()) == (JobState.DONE, ["f0", "f1", "f2", "f3"])

    play(story)


def test_a_chunk_that_two_workers_have_at_once_is_embedded_once(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(3)), TEXT, chunk=3)
        [(_, fields)] = await desk.redis.xrange(desk.stream)
        await desk.redis.xadd(desk.stream, fields)  # as if it had been taken for lost
        encoder = desk.encoders.text("hashing-32")
        encode = encoder.encode

        def slowly(contents: Sequence[str]) -> Encoded:
            time.sleep(0.5)
            return encode(contents)

        encoder.encode = slowly  # type: ignore[method-assign]
        async with desk.worker(), desk.worker():
            await desk.ended(job)
            await desk.emptied()
        assert sorted(encoder.seen) == sorted(titles(3))

    play(story)


class OtherEncoders(HashingEncoders):
    """Of a worker whose files are not the submitter's."""

    def open(self, space: str, model: str, fingerprint: str) -> Encoder[Any]:
        return super().open(space, "hashing-16", fingerprint)


def test_a_chunk_that_no_worker_can_do_fails_the_job_with_the_reason_and_the_item_ids(
    play: Play,
) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(2)), TEXT, chunk=3)
        async with desk.worker(OtherEncoders()):
            job = await desk.ended(job)
        assert job.state == JobState.FAILED
        assert "the one of that name here has hashing-16" in job.failures["0"]
        (letter,) = await desk.jobs.ledger.queue().dead.newest()
        assert letter.reason == job.failures["0"] + " (the items f0, f1)"

        await desk.jobs.resume(job.id)
        assert await desk.jobs.ledger.queue().dead.newest() == []
        async with desk.worker():
            job = await desk.ended(job)
        assert (job.state, job.failures) == (JobState.DONE, {})
        assert desk.ids() == ["f0", "f1"]

    play(story)


class BreakingEncoders(HashingEncoders):
    """Whose encoder breaks down for good after a few texts."""

    def open(self, space: str, model: str, fingerprint: str) -> Encoder[Any]:
        encoder = super().open(space, model, fingerprint)
        whole = encoder.encode

        def encode(contents: Sequence[str]) -> Encoded:
            if len(contents) > 1 or len(self.text(model).seen) >= 2:
                raise RuntimeError("the device is gone")
            return whole(contents)

        encoder.encode = encode  # type: ignore[method-assign]
        return encoder


def test_an_encoder_that_breaks_down_is_not_taken_for_bad_contents(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(4)), TEXT, chunk=4)
        async with desk.worker(BreakingEncoders()):
            job = await desk.ended(job)
        assert job.state == JobState.FAILED
        assert job.failures == {"0": "RuntimeError: the device is gone"}
        assert not list(desk.settings.embeddings_dir.rglob("*.arrow"))

    play(story)


def test_dead_letters_that_are_put_back_end_the_job_too(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(2)), TEXT, chunk=3)
        async with desk.worker(OtherEncoders()):
            job = await desk.ended(job)
        dead = desk.jobs.ledger.queue().dead
        assert await dead.retry([letter.id for letter in await dead.newest()]) == 1
        async with desk.worker():
            while (await desk.jobs.get(job.id)).state != JobState.DONE:
                await asyncio.sleep(0.02)

    play(story)


def test_a_job_that_redis_has_lost_is_resumed_from_its_folder(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(9)), TEXT, chunk=3)
        seen = desk.encoders.text("hashing-32").seen
        async with desk.worker():
            while not seen:
                await asyncio.sleep(0.001)
        keys = [key async for key in desk.redis.scan_iter(f"{desk.namespace}:*")]
        await desk.redis.delete(*keys)
        assert (await desk.jobs.get(job.id)).state == JobState.SUBMITTING
        await desk.jobs.resume(job.id)
        async with desk.worker():
            await desk.ended(job)
        assert sorted(seen) == sorted(titles(9)), "what was written is not embedded again"
        assert len(desk.ids()) == 9

    play(story)


def test_a_job_that_is_sealed_twice_makes_one_version(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(4))
        job = await desk.jobs.submit(data, TEXT)
        async with desk.worker():
            await desk.ended(job)
            sealing = json.dumps({"job": job.id, "chunk": SEAL})
            await desk.redis.xadd(desk.stream, {"body": sealing})
            await desk.emptied()
        assert Spaces(desk.settings.spaces_dir).versions("text") == ["v0001"]

    play(story)


def test_a_space_without_any_vector_tells_why_and_keeps_no_other_from_being_sealed(
    play: Play,
) -> None:
    async def story(desk: Desk) -> None:
        await desk.done(films(desk.folder / "one", ["a", "b"]))
        data = films(desk.folder / "two", [", ,", ","], ["red.png", None])
        Image.new("RGB", (4, 4), "red").save(data / "red.png")
        job = await desk.done(data, TEXT | {"image": "colour"})
        assert (job.state, job.failures) == (JobState.DONE, {})
        text, image = job.spaces
        assert (text.version, text.vectors, text.problems) == (None, 0, 2)
        assert (image.version, image.vectors) == ("v0001", 1)
        assert (desk.bundle().version, desk.ids()) == ("v0001", ["f0", "f1"])
        reasons = {row["item_id"]: row["reason"] for row in desk.jobs.problems(job.id)}
        assert reasons == {"f0": "The text is empty.", "f1": "The text is empty."}

    play(story)


def test_a_damaged_old_version_does_not_keep_the_next_from_being_sealed(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(desk: Desk) -> None:
        for name in ("one", "two"):
            await desk.done(films(desk.folder / name, [name]))
        (Spaces(desk.settings.spaces_dir).path("text", "v0001") / "manifest.json").write_text("{")
        job = await desk.done(films(desk.folder / "three", ["three"]))
        assert (job.state, job.spaces[0].version) == (JobState.DONE, "v0003")
        assert "v0001" in caplog.text

    play(story)


def test_jobs_leave_the_newest_versions_and_no_more(play: Play) -> None:
    async def story(desk: Desk) -> None:
        async with desk.worker():
            for number in range(6):
                data = films(desk.folder / str(number), [f"film {number}"])
                await desk.ended(await desk.jobs.submit(data, TEXT))
        versions = Spaces(desk.settings.spaces_dir).versions("text")
        assert versions == ["v0003", "v0004", "v0005", "v0006"]

    play(story)


def test_a_sealing_waits_for_a_fold_and_no_try_is_counted(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(desk: Desk) -> None:
        desk.settings.spaces_dir.mkdir(parents=True)
        async with desk.worker():
            with exclusive(desk.settings.spaces_dir / folding.LOCK):
                job = await desk.jobs.submit(films(desk.folder / "films", titles(3)), TEXT)
                await asyncio.sleep(4)  # longer than all tries would take
                assert (await desk.jobs.get(job.id)).state is JobState.SEALING
            job = await desk.ended(job)
        assert job.state is JobState.DONE
        assert "could not be answered" not in caplog.text

    play(story)


def test_a_job_with_nothing_new_is_sealed_at_once(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(4))
        await desk.done(data)
        job = await desk.done(data)
        assert (job.contents, job.spaces[0].version) == (0, "v0002")

    play(story)


def live_rows(desk: Desk, *item_ids: str, **fields: str) -> None:
    """A next version of the text space with its first item as it is, and after it items that were
    put in over the API, all with the vector and the content of the second."""
    before, spaces = desk.bundle(), Spaces(desk.settings.spaces_dir)
    content = before.catalogue.slice(1, 1).to_pylist()[0] | {LIVE: True, **fields}
    rows = [content | {"item_id": item_id} for item_id in item_ids]
    put = pa.Table.from_pylist(rows, schema=CONTENT_SCHEMA)
    version = spaces.add(
        "text",
        lambda folder: seal_content(
            folder,
            space="text",
            encoder="hashing-32",
            fingerprint="hashing-32",
            items=pa.concat_tables([before.catalogue.slice(0, 1), put]),
            index=Index.build(before.vectors[[0, *[1] * len(item_ids)]]),
            data_fingerprint="",
            cost={},
        ),
    )
    spaces.activate("text", version)


def test_a_sealing_that_is_repeated_leaves_in_service_what_came_after_it(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(desk: Desk) -> None:
        write_report = JobFolder.write_report

        def fail_once(folder: JobFolder, report: Report) -> None:
            monkeypatch.setattr(JobFolder, "write_report", write_report)
            live_rows(desk, "new")
            raise OSError("no space left on the device")

        monkeypatch.setattr(JobFolder, "write_report", fail_once)
        job = await desk.done(films(desk.folder / "films", titles(2)))
        assert (job.state, job.spaces[0].version) == (JobState.DONE, "v0001")
        assert (desk.bundle().version, desk.ids()) == ("v0002", ["f0", "new"])

    play(story)


def test_a_sealing_that_is_repeated_makes_anew_what_was_overtaken_before_it_was_in_service(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(desk: Desk) -> None:
        await desk.done(films(desk.folder / "one", titles(2)))
        activate = Spaces.activate

        def fail_once(spaces: Spaces, name: str, version: str) -> None:
            monkeypatch.setattr(Spaces, "activate", activate)
            live_rows(desk, "new")
            raise OSError("no space left on the device")

        monkeypatch.setattr(Spaces, "activate", fail_once)
        job = await desk.done(films(desk.folder / "two", titles(3)))
        assert (job.state, job.spaces[0].version) == (JobState.DONE, "v0004")
        assert (desk.bundle().version, desk.ids()) == ("v0004", ["f0", "f1", "f2", "new"])

    play(story)


def test_live_items_of_the_version_before_are_carried_on(play: Play) -> None:
    async def story(desk: Desk) -> None:
        await desk.done(films(desk.folder / "one", ["a", "b"]))
        before = desk.bundle()
        live_rows(desk, "f1", "new")
        await desk.done(films(desk.folder / "two", ["c", "other", "d"]))
        bundle = desk.bundle()
        assert desk.ids() == ["f0", "f2", "f1", "new"]
        np.testing.assert_array_equal(bundle.vectors[2:], before.vectors[[1, 1]])
        assert bundle.catalogue[LIVE].to_pylist() == [False, False, True, True]

    play(story)


def test_live_items_that_another_encoder_embedded_wait_for_the_next_one(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", ["a", "b"])
        await desk.done(data)
        live_rows(desk, "f1", "new")
        job = await desk.done(data, {"text": "hashing-16"})
        assert desk.ids() == ["f0", "f1"], "vectors of two encoders never mix"
        assert (job.spaces[0].returned, job.spaces[0].left) == (2, 0)
        entries = await desk.live.all()
        assert {each.item_id for each in entries} == {"f1", "new"}
        assert {each.states["text"] for each in entries} == {ItemState.PENDING}
        assert {each.item.title for each in entries if each.item} == {"b"}
        [(_, fields)] = await desk.redis.xrange(desk.live.stream)
        assert puts_of(fields[b"body"]) == {each.item_id: each.put for each in entries}

    play(story)


def test_what_is_said_or_deleted_now_goes_before_what_is_put_back(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", ["a", "b"])
        await desk.done(data)
        live_rows(desk, "said", "gone", "new")
        await desk.live.put([Item(item_id="said", title="anew")])
        await desk.live.delete("gone")
        job = await desk.done(data, {"text": "hashing-16"})
        assert (job.spaces[0].returned, job.spaces[0].left) == (1, 0)
        titles = {e.item_id: e.item and e.item.title for e in await desk.live.all()}
        assert titles == {"said": "anew", "gone": None, "new": "b"}

    play(story)


def test_live_items_that_there_is_no_room_for_are_told(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_items, "MAX_LIVE", 1)

    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", ["a", "b"])
        await desk.done(data)
        live_rows(desk, "new", "newer")
        job = await desk.done(data, {"text": "hashing-16"})
        assert (job.spaces[0].returned, job.spaces[0].left) == (1, 1)
        assert "put them in again" in caplog.text

    play(story)


def test_live_items_are_embedded_in_a_space_that_is_new(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", ["a", "b"], ["red.png", None])
        Image.new("RGB", (4, 4), "red").save(data / "red.png")
        await desk.done(data)
        live_rows(desk, "new", image="red.png")
        job = await desk.done(data, {"image": "colour"})
        assert job.spaces[0].returned == 1

    play(story)


def test_a_job_asks_for_the_index_that_the_space_was_built_anew_with(play: Play) -> None:
    async def story(desk: Desk) -> None:
        await desk.done(films(desk.folder / "one", ["a", "b"]))
        asked: Asked = {"recall": 0.9, "exact_below": 30, "kind": "ivf_sq8"}
        reindex_space(Spaces(desk.settings.spaces_dir), "text", asked)
        await desk.done(films(desk.folder / "two", ["c", "d"]))
        assert (desk.bundle().version, desk.bundle().index.asked) == ("v0003", asked)

    play(story)


def test_a_job_that_has_ended_is_removed_and_its_vectors_stay(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(4))
        job = await desk.done(data)
        await desk.emptied()
        await desk.jobs.remove(job.id)
        assert [path.name for path in desk.settings.jobs_dir.iterdir()] == [LOCK]
        assert (await desk.done(data)).contents == 0
        with pytest.raises(NoJob, match="recsys jobs list"):
            await desk.jobs.remove(job.id)

    play(story)


def test_a_job_that_is_worked_on_is_removed_once_it_is_cancelled(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(4)), TEXT)
        with pytest.raises(NotEnded, match=f"is queued: .* `recsys jobs cancel {job.id}`"):
            await desk.jobs.remove(job.id)
        await desk.jobs.cancel(job.id)
        await desk.jobs.remove(job.id)
        async with desk.worker():
            await desk.emptied()
        assert await desk.jobs.newest() == []
        assert await desk.jobs.ledger.queue().dead.newest() == []

    play(story)


def test_a_job_is_not_removed_under_who_seals_it(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(4)), TEXT)
        await desk.jobs.cancel(job.id)
        with (
            exclusive(JobFolder(desk.settings.jobs_dir / job.id).sealing_lock),
            pytest.raises(NotEnded, match="is being sealed"),
        ):
            await desk.jobs.remove(job.id)
        await desk.jobs.get(job.id)

    play(story)


def test_what_has_no_vector_is_counted_while_the_job_runs_and_after_it(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", [" ", ",", "a", "aa"])
        job = await desk.jobs.submit(data, TEXT, chunk=1)
        assert job.without_vector == 1
        async with desk.worker():
            job = await desk.ended(job)
        assert (job.state, job.without_vector) == (JobState.DONE, 2)

    play(story)


def test_every_key_of_a_job_expires(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(9)), TEXT, chunk=3)
        async with desk.worker():
            await desk.ended(job)
            keys = [key async for key in desk.redis.scan_iter(f"{desk.namespace}:*")]
            kept = [key for key in keys if await desk.redis.ttl(key) < 0]
        assert f"{desk.namespace}:workers".encode() in keys
        assert f"{desk.namespace}:job:{job.id}:done".encode() in keys
        assert kept == [desk.stream.encode()]

    play(story)


def test_a_worker_is_heard_of_while_it_works(play: Play) -> None:
    async def story(desk: Desk) -> None:
        assert await desk.jobs.ledger.workers() == 0
        async with desk.worker():
            while not await desk.jobs.ledger.workers():
                await asyncio.sleep(0.01)
        assert await desk.jobs.ledger.workers() == 0

    play(story)


def test_an_ended_job_leaves_its_report_and_nothing_of_its_size(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.done(films(desk.folder / "films", titles(9)))
        await desk.emptied()
        left = {path.name for path in (desk.settings.jobs_dir / job.id).iterdir()}
        assert left == {".sealing", "job.json", "problems.parquet", "report.json"}
        keys = [key async for key in desk.redis.scan_iter(f"{desk.namespace}:job:*")]
        await desk.redis.delete(*keys)
        assert (await desk.jobs.get(job.id)).state == JobState.DONE

    play(story)


def test_a_job_whose_files_are_broken_stands_in_nobodys_way(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(2))
        broken = await desk.jobs.submit(data, TEXT)
        (desk.settings.jobs_dir / broken.id / "job.json").write_text("{")
        job = await desk.jobs.submit(data, TEXT)
        assert [each.id for each in await desk.jobs.newest()] == [job.id]
        assert "job.json cannot be read" in caplog.text
        with pytest.raises(NoJob, match="embed again"):
            await desk.jobs.get(broken.id)

    play(story)


def test_what_cannot_be_a_job_is_refused_with_a_reason(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(2))
        with pytest.raises(NoDataset, match="is no Dataset"):
            await desk.jobs.submit(desk.folder, TEXT)
        with pytest.raises(NothingToEmbed, match="2 have none"):
            await desk.jobs.submit(data, {"image": "colour"})
        elsewhere = Jobs(
            desk.redis, desk.settings, desk.encoders, datasets=[desk.folder / "allowed"]
        )
        with pytest.raises(RefusedDataset, match="not under a folder"):
            await elsewhere.submit(data, TEXT)
        for name in ("20260101-000000-abcdef", "../../etc"):
            with pytest.raises(NoJob, match="recsys jobs list"):
                await desk.jobs.get(name)
        left = [path.name for path in desk.settings.jobs_dir.iterdir()]
        assert left == [LOCK], "no half-made job is left"

    play(story)
