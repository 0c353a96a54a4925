"""The embedding store: what is written is found by what it is, and what is alike is found out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import embedding_store
from recsys.embedding_store import (
    NOWHERE,
    BrokenPart,
    EmbeddingStore,
    Vectors,
    hash_words,
    owners,
    place,
)


def hashes(names: Sequence[str | None]) -> pa.Array:
    digests = [None if n is None else hashlib.sha256(n.encode()).digest()[:16] for n in names]
    return pa.array(digests, pa.binary(16))


def store_of(folder: Path, **parts: Sequence[str]) -> EmbeddingStore:
    """A store whose parts hold these contents; the vector of a content is its length, twice."""
    store = EmbeddingStore(folder, "text", "abc")
    for name, contents in parts.items():
        vectors = np.array([[len(each)] * 2 for each in contents], np.float32)
        problems = {row: "bad" for row, each in enumerate(contents) if each.startswith("bad")}
        store.write(name, hashes(contents), vectors, problems)
    return store


def found_owners(
    store: EmbeddingStore, contents: Sequence[str | None], batch: int, scratch: Path
) -> list[int]:
    out = np.full(len(contents), 99, np.int64)
    batches = (hashes(contents[i : i + batch]) for i in range(0, len(contents), batch))
    parts = store.parts()
    owners(batches, len(contents), store.held(parts), store.count(parts), out, scratch)
    return out.tolist()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = store_of(tmp_path, one=["a", "bad", "ccc"])
    part = store.open("one")
    assert part is not None
    assert part.vectors[[0, 2]].tolist() == [[1, 1], [3, 3]]
    assert part.has_vector.tolist() == [True, False, True]
    assert part.problems.to_pylist() == [None, "bad", None]
    assert (part.hashes == hash_words(hashes(["a", "bad", "ccc"]))).all()


def test_a_part_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert store_of(tmp_path).open("one") is None
    assert store_of(tmp_path).parts() == []


def test_parts_are_listed_without_those_still_being_written(tmp_path: Path) -> None:
    store = store_of(tmp_path, two=["b"], one=["a"])
    (store.folder / ".unfinished-three.arrow-x1").write_bytes(b"half")
    assert store.parts() == ["one", "two"]


def test_a_part_that_was_truncated_is_refused_by_name(tmp_path: Path) -> None:
    store = store_of(tmp_path, one=["a"])
    path = store.path("one")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BrokenPart, match=r"one\.arrow.*delete it"):
        store.open("one")


def test_the_same_chunk_gives_the_same_file(tmp_path: Path) -> None:
    one, two = store_of(tmp_path / "1", p=["a", "bad"]), store_of(tmp_path / "2", p=["a", "bad"])
    assert one.path("p").read_bytes() == two.path("p").read_bytes()


def test_the_first_row_with_a_content_owns_it_unless_the_store_has_it(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", p0=["x"], p1=["y", "known"])
    contents = ["new", "known", None, "new", "other", "known"]
    known = -2 - (1 << 32 | 1)
    found = found_owners(store, contents, batch=2, scratch=tmp_path)
    assert found == [0, known, NOWHERE, 0, 4, known]


def test_what_has_no_vector_in_the_store_is_embedded_again(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", p0=["bad"])
    assert found_owners(store, ["bad"], batch=1, scratch=tmp_path) == [0]


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(embedding_store, "BUCKET", 4)
    yield


@pytest.mark.usefixtures("small_buckets")
def test_owners_found_in_many_buckets_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    names = st.one_of(st.none(), st.integers(0, 20).map(str))

    @given(contents=st.lists(names, max_size=60), batch=st.integers(1, 7))
    def law(contents: list[str | None], batch: int) -> None:
        folder = tmp_path_factory.mktemp("law")
        store = store_of(folder / "store", p0=["3", "5"], p1=["7"])
        known = {"3": -2, "5": -3, "7": -2 - (1 << 32)}
        first: dict[str | None, int] = {None: NOWHERE, **known}
        expected = [first.setdefault(each, row) for row, each in enumerate(contents)]
        assert found_owners(store, contents, batch, folder) == expected

    law()


def test_vectors_are_found_by_their_places_whichever_part_they_are_in(tmp_path: Path) -> None:
    store = store_of(tmp_path, p0=["a", "bb"], p1=["ccc", "bad", "eeeee"])
    names = ["eeeee", "a", "bad", "ccc"]
    places = np.concatenate([place(1, np.array([2])), place(0, np.array([0])),
                             place(1, np.array([1, 0]))])  # fmt: skip
    vectors, problems = Vectors(store, store.parts()).at(places, hash_words(hashes(names)))
    assert vectors[[0, 1, 3]].tolist() == [[5, 5], [1, 1], [3, 3]]
    assert problems == {2: "bad"}


def test_a_part_that_holds_other_contents_by_now_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, p0=["a"])
    with pytest.raises(BrokenPart, match="other contents"):
        Vectors(store, ["p0"]).at(place(0, np.array([0])), hash_words(hashes(["b"])))


def test_a_part_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokenPart, match=r"p0\.arrow is not there any more"):
        Vectors(store_of(tmp_path), ["p0"]).at(place(0, np.array([0])), hash_words(hashes(["b"])))
