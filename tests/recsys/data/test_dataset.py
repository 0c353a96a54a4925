"""A Dataset on disk: what is written is what is loaded, and a broken one is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.dataset import (
    EVENTS,
    EVENTS_SCHEMA,
    INFO,
    ITEMS,
    ITEMS_SCHEMA,
    Dataset,
    NoDataset,
    read_info,
    write_dataset,
)

Event = tuple[str, str, int | None]
"""User, item and milliseconds."""


def table(events: Sequence[Event], values: Sequence[float | None] | None = None) -> pa.Table:
    n = len(events)
    return pa.table(
        {
            "user_id": pa.array([user for user, _, _ in events], pa.string()),
            "item_id": pa.array([item for _, item, _ in events], pa.string()),
            "timestamp": pa.array([time for _, _, time in events], pa.int64()).cast(
                EVENTS_SCHEMA.field("timestamp").type
            ),
            "event": pa.array(["view"] * n, pa.string()),
            "value": pa.array([None] * n if values is None else values, pa.float32()),
        },
        schema=EVENTS_SCHEMA,
    )


def catalogue(*ids: str) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "item_id": i,
                "title": f"The {i}",
                "text": None,
                "image": f"pictures/{i}.png",
                "tags": ["western"],
                "attributes": '{"year": 1970}',
                "available": False,
            }
            for i in ids
        ],
        schema=ITEMS_SCHEMA,
    )


def histories_of(dataset: Dataset) -> dict[str, list[str]]:
    """Each user's items, by their ids."""
    users = dataset.users.to_arrow().to_pylist()
    return {user: dataset.items.ids(dataset.histories[row]) for row, user in enumerate(users)}


times = st.integers(0, 3) | st.sampled_from([-(2**62), 2**62])  # some too far apart for one key
timed_events = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), times), max_size=20
)


@settings(deadline=None)
@given(timed_events, st.integers(1, 20))
def test_users_have_their_events_by_time_and_equal_times_in_the_order_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], batch: int
) -> None:
    folder = tmp_path_factory.mktemp("datasets") / "it"
    batches = [table(events[start : start + batch]) for start in range(0, len(events), batch)]
    info = write_dataset(folder, batches, None, "a test")
    dataset = Dataset.load(folder)
    in_time = sorted(events, key=lambda event: event[2] or 0)
    expected: dict[str, list[str]] = {}
    times: dict[str, list[int | None]] = {}
    for user, item, time in in_time:
        expected.setdefault(user, []).append(item)
        times.setdefault(user, []).append(time)
    assert histories_of(dataset) == expected
    assert dataset.timestamps is not None
    by_user = [time for user in dataset.users.to_arrow().to_pylist() for time in times[user]]
    assert dataset.timestamps.tolist() == by_user
    assert (info.events, info.users) == (len(events), len(expected))


def test_one_missing_timestamp_leaves_only_the_order_of_the_file(tmp_path: Path) -> None:
    events: list[Event] = [("u", "a", 9), ("v", "b", 5), ("u", "c", None), ("u", "b", 1)]
    write_dataset(tmp_path / "it", [table(events)], None, "a test")
    dataset = Dataset.load(tmp_path / "it")
    assert dataset.timestamps is None
    assert histories_of(dataset) == {"u": ["a", "c", "b"], "v": ["b"]}


@pytest.mark.parametrize("time", [None, 7])
def test_many_events_of_no_or_one_time_stay_in_the_order_of_the_file(
    tmp_path: Path, time: int | None
) -> None:
    # Sorting algorithms that are not stable still are, in effect, for a dozen events.
    users = np.random.default_rng(0).integers(5, size=3_000).tolist()
    events: list[Event] = [(f"u{user}", f"i{i}", time) for i, user in enumerate(users)]
    write_dataset(tmp_path / "it", [table(events)], None, "a test")
    for user, items in histories_of(Dataset.load(tmp_path / "it")).items():
        assert items == [item for of_user, item, _ in events if of_user == user]


def test_values_stand_beside_their_events_and_are_nan_where_there_is_none(tmp_path: Path) -> None:
    events: list[Event] = [("u", "a", 3), ("u", "b", 1), ("u", "c", 2)]
    write_dataset(tmp_path / "it", [table(events, [3.0, None, 2.0])], None, "a test")
    dataset = Dataset.load(tmp_path / "it")
    assert dataset.values.dtype == np.float32
    np.testing.assert_array_equal(dataset.values, np.array([np.nan, 2, 3], np.float32))


def test_the_catalogue_comes_first_and_items_of_events_complete_it(tmp_path: Path) -> None:
    events: list[Event] = [("u", "new", 1), ("u", "b", 2), ("u", "newer", 3), ("v", "new", 4)]
    info = write_dataset(tmp_path / "it", [table(events)], catalogue("a", "b"), "a test")
    dataset = Dataset.load(tmp_path / "it")
    assert dataset.items.to_arrow().to_pylist() == ["a", "b", "new", "newer"]
    assert dataset.catalogue.slice(0, 2).equals(catalogue("a", "b"))
    assert dataset.catalogue.slice(2).to_pylist() == [
        {
            "item_id": new,
            "title": new,
            "text": None,
            "image": None,
            "tags": None,
            "attributes": None,
            "available": True,
        }
        for new in ("new", "newer")
    ]
    assert (info.items, info.items_with_events) == (4, 3)


def test_what_was_written_is_described_beside_it(tmp_path: Path) -> None:
    info = write_dataset(tmp_path / "it", [table([("u", "a", 1)])], None, "by hand")
    assert info == read_info(tmp_path / "it") == Dataset.load(tmp_path / "it").info
    assert (info.source, info.bad_rows) == ("by hand", 0)
    assert {path.name for path in (tmp_path / "it").iterdir()} == {EVENTS, ITEMS, INFO}


def test_the_fingerprint_is_of_the_contents_and_nothing_else(tmp_path: Path) -> None:
    events, other = table([("u", "a", 1)]), table([("u", "a", 2)])
    first = write_dataset(tmp_path / "a", [events], None, "one")
    again = write_dataset(tmp_path / "b", [events], None, "another source")
    of_events = write_dataset(tmp_path / "c", [other], None, "one")
    of_items = write_dataset(tmp_path / "d", [events], catalogue("a"), "one")
    assert first.fingerprint == again.fingerprint
    assert len({info.fingerprint for info in (first, of_events, of_items)}) == 3


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def batches() -> Iterator[pa.Table]:
        yield table([("u", "a", 1)])
        raise OSError("the source went away")

    with pytest.raises(OSError, match="went away"):
        write_dataset(tmp_path / "it", batches(), None, "a test")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(FileExistsError, match="exists already"):
        write_dataset(tmp_path, [table([("u", "a", 1)])], None, "a test")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("name", [EVENTS, ITEMS, INFO])
def test_a_missing_file_is_named(tmp_path: Path, ring: Path, name: str) -> None:
    shutil.copytree(ring, tmp_path / "it")
    (tmp_path / "it" / name).unlink()
    with pytest.raises(NoDataset, match=name):
        Dataset.load(tmp_path / "it")


@pytest.mark.parametrize("name", [EVENTS, ITEMS, INFO])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, ring: Path, name: str, share: float) -> None:
    shutil.copytree(ring, tmp_path / "it")
    whole = (tmp_path / "it" / name).read_bytes()
    (tmp_path / "it" / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(NoDataset, match=name):
        Dataset.load(tmp_path / "it")


@pytest.mark.parametrize("name", [EVENTS, ITEMS])
def test_a_file_of_another_dataset_is_refused(tmp_path: Path, ring: Path, name: str) -> None:
    write_dataset(tmp_path / "other", [table([("u", "i0", 1)])], catalogue("i0"), "a test")
    shutil.copytree(ring, tmp_path / "it")
    shutil.copy(tmp_path / "other" / name, tmp_path / "it" / name)
    with pytest.raises(NoDataset, match=r"changed after the import"):
        Dataset.load(tmp_path / "it")


def test_a_catalogue_with_an_item_twice_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' stands twice"):
        write_dataset(tmp_path / "it", [], catalogue("a", "b", "a"), "a test")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NoDataset, match=r"holds no dataset\.json.*recsys data import"):
        Dataset.load(tmp_path)
