"""What `recsys embed` does while its job is worked on."""

from __future__ import annotations

import asyncio

from services.cli.embed import follow
from services.jobs import JobState
from tests.desk import TEXT, Desk, Play, films, titles


def test_a_job_that_redis_loses_meanwhile_is_submitted_again(play: Play, redis_url: str) -> None:
    async def story(desk: Desk) -> None:
        job = await desk.jobs.submit(films(desk.folder / "films", titles(9)), TEXT, chunk=3)
        following = asyncio.create_task(follow(desk.settings, redis_url, desk.jobs, job, 0))
        await desk.redis.delete(*[key async for key in desk.redis.scan_iter(f"{desk.namespace}:*")])
        async with desk.worker():
            ended = await asyncio.wait_for(following, timeout=60)
        assert (ended.state, len(desk.ids())) == (JobState.DONE, 9)

    play(story)
