"""The end of a job: its vectors become the next version of a space, in service."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra.storage import exclusive
from recsys.content_bundle import CONTENT_SCHEMA, LIVE, seal_content
from recsys.registry import Spaces
from recsys.retrieval.index import Asked, Index
from services import folding, live_items
from services.folding import reindex_space
from services.item_schemas import Item, ItemState
from services.job_folder import JobFolder, Report
from services.job_ledger import SEAL
from services.jobs import JobState
from services.live_items import puts_of
from tests.desk import TEXT, Desk, Play, films, titles


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
