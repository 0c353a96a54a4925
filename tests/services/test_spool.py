"""What a job makes of a catalogue: what is new is embedded, once, and what cannot be is told."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from encoders.text_input import MAX_TEXT
from recsys.data.dataset import NoDataset
from recsys.embedding_store import EmbeddingStore
from recsys.registry import Spaces
from services.job_folder import JobFolder
from services.job_plan import NothingToEmbed, Request
from services.jobs import JobState
from services.spool import spool
from tests.desk import TEXT, Desk, Play, films, titles
from tests.hashing_encoder import HashingEncoders


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


def test_a_disk_without_room_is_not_taken_for_a_bad_catalogue(tmp_path: Path) -> None:
    data = films(tmp_path / "films", titles(300))
    store = EmbeddingStore(tmp_path / "embeddings", "text", "hashing-32")
    request = Request("text", "hashing-32", "hashing-32", 3)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            spool(tmp_path / "jobs", data, [request], {"text": store})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


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


def test_texts_and_pictures_of_one_job_become_two_spaces(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = films(desk.folder / "films", titles(3), ["red.png"] * 3)
        Image.new("RGB", (8, 8), "red").save(data / "red.png")
        job = await desk.done(data, TEXT | {"image": "colour"})
        assert [each.vectors for each in job.spaces] == [3, 3]
        assert desk.vectors("image").shape == (3, 3)

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


def pictured(folder: Path, names: Sequence[str]) -> Path:
    """A Dataset whose films have the same pictures under whatever names."""
    data = films(folder, titles(len(names)), names)
    for number, name in enumerate(names):
        Image.new("RGB", (4, 4), (50 * number + 9, 3, 7)).save(data / name)
    return data


def test_a_job_reads_its_pictures_in_no_other_dataset_than_its_own(play: Play) -> None:
    async def story(desk: Desk) -> None:
        gone = pictured(desk.folder / "one", ["a.png", "b.png"])
        cancelled = await desk.jobs.submit(gone, {"image": "colour"})
        await desk.jobs.cancel(cancelled.id)
        shutil.rmtree(gone)
        job = await desk.done(
            pictured(desk.folder / "two", ["a.png", "b.png"]), {"image": "colour"}
        )
        assert (job.state, desk.ids("image")) == (JobState.DONE, ["f0", "f1"])

    play(story)


def test_a_job_reads_its_pictures_by_the_names_that_they_have_now(play: Play) -> None:
    async def story(desk: Desk) -> None:
        before = pictured(desk.folder / "films", ["a.png", "b.png"])
        cancelled = await desk.jobs.submit(before, {"image": "colour"})
        await desk.jobs.cancel(cancelled.id)
        shutil.rmtree(before)
        job = await desk.done(pictured(before, ["c.png", "d.png"]), {"image": "colour"})
        assert (job.without_vector, desk.ids("image")) == (0, ["f0", "f1"])

    play(story)


def test_pictures_of_one_dataset_are_embedded_once_by_jobs_at_the_same_time(play: Play) -> None:
    async def story(desk: Desk) -> None:
        data = pictured(desk.folder / "films", ["a.png", "b.png", "c.png", "d.png"])
        first = await desk.jobs.submit(data, {"image": "colour"}, chunk=2)
        second = await desk.jobs.submit(data, {"image": "colour"} | TEXT, chunk=2)
        async with desk.worker():
            for job in (first, second):
                assert (await desk.ended(job)).state == JobState.DONE
        parts = list(desk.settings.embeddings_dir.glob("image-*/*.arrow"))
        assert sum(name.name.startswith(first.id) for name in parts) == len(parts) == 2

    play(story)


def test_a_damaged_chunk_of_another_job_stands_in_nobodys_way(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(desk: Desk) -> None:
        other = await desk.jobs.submit(films(desk.folder / "one", titles(9)), TEXT, chunk=3)
        await desk.jobs.cancel(other.id)
        JobFolder(desk.settings.jobs_dir / other.id).todo_path(1).write_bytes(b"")
        job = await desk.done(films(desk.folder / "two", titles(9)))
        assert (job.state, job.embedded, len(desk.ids())) == (JobState.DONE, 9, 9)
        assert "cannot be read" in caplog.text

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
