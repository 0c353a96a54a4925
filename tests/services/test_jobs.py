"""Embedding jobs: submitted, resumed, cancelled, removed.

What happens when processes are killed, tests/faults/test_embedding.py tells.
"""

from __future__ import annotations

import asyncio

import pytest

from infra.storage import UNFINISHED, exclusive
from recsys.data.dataset import NoDataset
from services.job_folder import JobFolder, NoJob
from services.job_plan import NothingToEmbed
from services.jobs import ENDED, LOCK, Jobs, JobState, NotEnded, RefusedDataset
from tests.desk import TEXT, Desk, OtherEncoders, Play, films, titles


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


def test_a_job_of_which_redis_has_lost_a_part_is_resumed(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(9)), TEXT, chunk=3)
        async with desk.worker():
            while not (await desk.jobs.get(job.id)).embedded:
                await asyncio.sleep(0.001)
        await desk.redis.delete(f"{desk.namespace}:job:{job.id}", desk.stream)
        await desk.jobs.resume(job.id)
        async with desk.worker():
            assert (await desk.ended(job)).state == JobState.DONE

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


def test_what_killed_submitters_left_is_gone_with_the_next_job(play: Play) -> None:
    async def story(desk: Desk) -> None:
        left = desk.settings.jobs_dir / f"{UNFINISHED}20260101-000000-abcdef-x" / "todo"
        left.mkdir(parents=True)
        job = await desk.jobs.submit(films(desk.folder / "films", titles(2)), TEXT)
        assert {path.name for path in desk.settings.jobs_dir.iterdir()} == {LOCK, job.id}

    play(story)


def test_a_job_is_not_removed_while_another_is_submitted(play: Play) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(4)), TEXT)
        await desk.jobs.cancel(job.id)
        with exclusive(desk.settings.jobs_dir / LOCK):
            removing = asyncio.create_task(desk.jobs.remove(job.id))
            await asyncio.wait([removing], timeout=1)
            await desk.jobs.get(job.id)
        await removing
        with pytest.raises(NoJob):
            await desk.jobs.get(job.id)

    play(story)


def test_a_dataset_outside_the_roots_is_named_as_it_was_asked_for(play: Play) -> None:
    async def story(desk: Desk) -> None:
        jobs = Jobs(desk.redis, desk.settings, desk.encoders, datasets=[desk.folder / "allowed"])
        link = desk.folder / "link"
        link.symlink_to(desk.folder / "private")
        with pytest.raises(RefusedDataset, match="link is not under a folder") as refused:
            await jobs.submit(link, TEXT)
        assert "private" not in refused.value.message

    play(story)


def test_a_link_that_leads_to_itself_is_no_dataset(play: Play) -> None:
    async def story(desk: Desk) -> None:
        link = desk.folder / "link"
        link.symlink_to(link)
        with pytest.raises(RefusedDataset, match="leads back to itself"):
            await desk.jobs.submit(link, TEXT)

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
