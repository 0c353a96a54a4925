"""What workers do with the chunks of a job, and what becomes of those that they cannot do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from encoders.encoder import Encoded, Encoder
from infra.storage import exclusive
from services import patience
from services.job_folder import JobFolder
from services.jobs import JobState
from tests.desk import TEXT, Desk, OtherEncoders, Play, films, titles
from tests.hashing_encoder import HashingEncoders
from tests.withheld import withheld


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


def test_a_chunk_that_another_holds_holds_up_no_other_and_is_done_once_it_is_free(
    play: Play,
) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(9)), TEXT, chunk=3)
        async with desk.worker():
            with exclusive(JobFolder(desk.settings.jobs_dir / job.id).todo_path(0)):
                while (await desk.jobs.get(job.id)).embedded < 6:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(4 * desk.settings.visibility_timeout_s)  # of 2 tries
            assert (await desk.ended(job)).state == JobState.DONE
        assert await desk.jobs.ledger.queue().dead.newest() == []

    play(story)


@pytest.mark.parametrize("locked", ["todo", "sealing"])
def test_what_another_holds_keeps_no_worker_from_ending(play: Play, locked: str) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(3)), TEXT, chunk=3)
        folder = JobFolder(desk.settings.jobs_dir / job.id)
        lock = folder.todo_path(0) if locked == "todo" else folder.sealing_lock
        with exclusive(lock):
            async with asyncio.timeout(10), desk.worker():
                await asyncio.sleep(desk.settings.visibility_timeout_s)
        async with desk.worker():
            assert (await desk.ended(job)).state == JobState.DONE

    play(story)


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


@pytest.mark.parametrize(
    "texts", [["good one", "explode", "good two"], ["a", "good two", "it will explode as the last"]]
)
def test_a_content_that_fails_alone_in_its_batch_costs_no_other_its_vector(
    play: Play, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    """Its chunk, shortest first, begins with it, or ends."""
    monkeypatch.setattr(patience, "MOST_BYTES", 8)

    async def story(desk: Desk) -> None:
        job = await desk.done(films(desk.folder / "films", texts), chunk=3)
        assert (job.state, job.failures) == (JobState.DONE, {})
        [problem] = desk.jobs.problems(job.id)
        assert "this text explodes" in problem["reason"]
        assert len(desk.ids()) == 2

    play(story)


def test_an_encoder_that_fails_over_every_batch_of_one_is_not_taken_for_bad_contents(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "MOST_BYTES", 1)

    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", ["it will explode", "this will explode"])
        job = await desk.done(data, chunk=3)
        assert job.failures == {"0": "RuntimeError: this text explodes"}

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


@pytest.mark.parametrize(
    "body",
    ['{"job": "JOB", "chunk": -1}', '{"job": "JOB", "chunk": 99999999999}', "[]", "{}", "junk"],
)
def test_a_message_that_names_no_chunk_is_buried_and_the_job_goes_on(play: Play, body: str) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(6)), TEXT, chunk=3)
        await desk.redis.xadd(desk.stream, {"body": body.replace("JOB", job.id)})
        async with desk.worker():
            assert (await desk.ended(job)).state == JobState.DONE
            await desk.emptied()
        (letter,) = await desk.jobs.ledger.queue().dead.newest()
        assert letter.deliveries == 2

    play(story)


def test_a_worker_is_heard_of_while_it_works(play: Play) -> None:
    async def story(desk: Desk) -> None:
        assert await desk.jobs.ledger.workers() == 0
        async with desk.worker():
            while not await desk.jobs.ledger.workers():
                await asyncio.sleep(0.01)
        assert await desk.jobs.ledger.workers() == 0

    play(story)
