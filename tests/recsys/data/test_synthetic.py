"""Synthetic data: the same for the same seed, and with the structure that it promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from infra.errors import RecsysError
from recsys.data.dataset import Dataset
from recsys.data.genres import GENRES, POSTER_SIZE
from recsys.data.histories import Histories
from recsys.data.split import leave_one_out
from recsys.data.synthetic import synthesize
from tests.counts import counts


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("synthetic") / "films"
    synthesize(folder)
    return Dataset.load(folder)


def hits(films: Dataset, scores: NDArray[np.float32]) -> float:
    """Of users whose last item is hidden, the share that has it among the ten best unseen."""
    test = leave_one_out(films.histories).test
    seen = counts(test.histories, len(films.items)).toarray() > 0
    best = np.argsort(-np.where(seen, -np.inf, scores), axis=1)[:, :10]
    return float((best == test.targets.items[:, None]).any(1).mean())


def test_it_has_the_promised_size(films: Dataset) -> None:
    assert films.info.users == 2_000
    assert films.info.items == films.info.items_with_events == 600
    assert 50_000 < films.info.events < 70_000
    assert films.histories.lengths.min() >= 3


def test_nobody_watches_a_film_twice(films: Dataset) -> None:
    assert counts(films.histories, len(films.items)).max() == 1


def test_order_tells_more_than_taste_and_taste_more_than_popularity(films: Dataset) -> None:
    split, n = leave_one_out(films.histories), len(films.items)
    train, asked = split.train, split.test.histories
    popularity = np.bincount(train.items, minlength=n).astype(np.float32)
    of_user = counts(train, n)
    together = (of_user.T @ of_user).toarray() / np.sqrt(np.outer(popularity, popularity) + 1)
    within = np.diff(train.rows()) == 0
    pairs = np.zeros((n, n), np.float32)
    np.add.at(pairs, (train.items[:-1][within], train.items[1:][within]), 1)

    by_popularity = hits(films, np.tile(popularity, (len(asked), 1)))
    by_taste = hits(films, counts(asked, n).toarray() @ together)
    by_order = hits(films, pairs[asked.last(1).items] + 1e-4 * popularity)
    assert by_popularity > 1.5 * 10 / n, "popularity tells something"
    assert by_taste > 2 * by_popularity
    assert by_order > 1.2 * by_taste


def test_words_and_tags_tell_the_genre(films: Dataset) -> None:
    words = {
        genre.name: {word.lower() for word in (*genre.adjectives, *genre.nouns)} for genre in GENRES
    }
    for film in films.catalogue.to_pylist():
        (genre,) = film["tags"]
        spoken = set(film["text"].lower().replace(",", " ").replace(".", " ").split())
        assert len(spoken & words[genre]) >= 2
        assert 1950 <= json.loads(film["attributes"])["year"] < 2025


def test_titles_are_all_different(films: Dataset) -> None:
    titles = films.catalogue["title"].to_pylist()
    assert len(set(titles)) == len(titles)


def test_posters_tell_the_genre_by_colour_and_shape_together(films: Dataset) -> None:
    tags = np.array([tags[0] for tags in films.catalogue["tags"].to_pylist()])
    pictures = np.stack(
        [
            np.asarray(Image.open(films.path / image), np.float32).reshape(-1)
            for image in films.catalogue["image"].to_pylist()
        ]
    )
    assert pictures.shape == (600, POSTER_SIZE * POSTER_SIZE * 3)
    shown, hidden = np.arange(0, 600, 2), np.arange(1, 600, 2)
    means = np.stack([pictures[shown][tags[shown] == genre.name].mean(0) for genre in GENRES])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    nearest = np.argmax(pictures[hidden] @ means.T, axis=1)
    found = np.array([genre.name for genre in GENRES])[nearest]
    assert (found == tags[hidden]).mean() > 0.8, "the nearest mean picture knows it"


def test_the_same_seed_gives_the_same_bytes_and_another_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthesize(tmp_path / name, n_users=50, n_items=40, seed=seed)
    contents = {
        name: {
            str(file.relative_to(tmp_path / name)): file.read_bytes()
            for file in sorted((tmp_path / name).rglob("*.p*"))
        }
        for name in "abc"
    }
    assert contents["a"] == contents["b"]
    assert contents["a"].keys() == contents["c"].keys()
    assert all(contents["a"][name] != contents["c"][name] for name in contents["a"])


def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    synthesize(tmp_path / "plain", n_users=20, n_items=30, pictures=False)
    dataset = Dataset.load(tmp_path / "plain")
    assert dataset.catalogue["image"].null_count == 30
    assert {path.suffix for path in dataset.path.iterdir()} == {".parquet", ".json"}


@pytest.mark.parametrize(("n_users", "n_items"), [(1, 1), (3, 5), (1, 400)])
def test_the_smallest_sizes_are_made_too(tmp_path: Path, n_users: int, n_items: int) -> None:
    info = synthesize(tmp_path / "tiny", n_users=n_users, n_items=n_items)
    assert (info.users, info.items) == (n_users, n_items)
    assert isinstance(Dataset.load(tmp_path / "tiny").histories, Histories)


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    synthesize(
        tmp_path / "it", n_users=5, n_items=4, progress=lambda done, of: seen.append((done, of))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match="exists already"):
        synthesize(tmp_path, n_users=5, n_items=4)
