"""Synthetic data with a structure to find, for demonstrations and tests.

The items are films of twelve genres. The films of a genre stand on a ring; whoever watches one
goes on to one of the next few, popular ones sooner, and turns now and then to another of the few
genres that he likes, where he goes on from where he left. So

- popularity says little: it knows neither genre nor order;
- who watched the same films (iALS) gives the genre and the region of the ring;
- the order (SASRec) gives the next film;
- title, text and poster give the genre, and nothing of the order.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.errors import RecsysError
from infra.storage import atomic_folder
from recsys.data.dataset import EVENTS_SCHEMA, ITEMS_SCHEMA, DatasetInfo, DatasetWriter
from recsys.data.genres import GENRES

PICTURES = "pictures"
"""The folder of the posters, inside the Dataset."""

MEAN_LENGTH, LONGEST = 32, 120
"""Events of a user: geometric from 5 on, cut off."""

REACH = np.array([0.62, 0.23, 0.10, 0.05])
"""How likely one goes 1, 2, … films further on the ring, if all are equally popular."""

STAY = 0.8
"""How likely one stays with the genre."""

STRAY = 0.03
"""How likely an event is some film or other, by popularity alone."""

LIKED_GENRES = 0.6
"""Of the Dirichlet distribution of tastes: the g-th genre has LIKED_GENRES / g. Less than 1 in
all means that most users like one or two genres."""

HOUR = 3_600_000
YEAR_2025 = 1_735_689_600_000


def synthesize(
    path: Path,
    *,
    n_users: int = 2_000,
    n_items: int = 600,
    seed: int = 0,
    pictures: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
) -> DatasetInfo:
    """Write a Dataset of about 30 events a user, whole or not at all; same seed, same bytes.

    progress: called with the items drawn and how many there are. Raises RecsysError if the
    folder exists.
    """
    rng = np.random.default_rng(seed)
    rings = Rings.scatter(rng, n_items)
    events = _events(rng, rings, n_users)
    try:
        with atomic_folder(path) as folder:
            if pictures:
                (folder / PICTURES).mkdir()
            writer = DatasetWriter(folder)
            writer.write(events)
            catalogue = _catalogue(rng, rings, folder if pictures else None, progress)
            source = f"synthetic: {n_users} users, {n_items} items, seed {seed}"
            return writer.close(catalogue, source, bad_rows=0)
    except FileExistsError:
        raise RecsysError(
            f"{path} exists already: choose another folder, or delete it first"
        ) from None


class Rings:
    """N items on one ring a genre, scattered so that their rows tell nothing."""

    def __init__(self, item_at: NDArray[np.int64], popularity: NDArray[np.float64]) -> None:
        """item_at: Int64[N], the item at place p * C + c, for position p of the ring of genre c;
        popularity: Float64[N], by item."""
        self.n_items = len(item_at)
        self.n_genres = min(len(GENRES), self.n_items)
        self.item_at = item_at
        self.popularity = popularity
        self.sizes = (self.n_items - np.arange(self.n_genres) - 1) // self.n_genres + 1

    @classmethod
    def scatter(cls, rng: np.random.Generator, n_items: int) -> Rings:
        """Items at random places; the r-th most popular has popularity 1 / (r + 10)."""
        popularity = 1 / (rng.permutation(n_items) + 10.0)
        return cls(rng.permutation(n_items), popularity)

    def items(self, genres: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The items at these positions, which go around and around the rings."""
        item_at: NDArray[np.int64] = self.item_at[
            positions % self.sizes[genres] * self.n_genres + genres
        ]
        return item_at

    def step(
        self, rng: np.random.Generator, genres: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The next position of each on the ring of its genre."""
        ahead = positions[:, None] + 1 + np.arange(len(REACH))
        wanted = REACH * np.sqrt(self.popularity[self.items(genres[:, None], ahead)])
        return positions + 1 + _choose(rng, wanted)


def _events(rng: np.random.Generator, rings: Rings, n_users: int) -> pa.Table:
    """Everybody's walk, sorted by time; nobody watches a film twice."""
    liked = rng.dirichlet(LIKED_GENRES / (1 + np.arange(rings.n_genres)), n_users)
    genres = _choose(rng, liked)
    positions = rng.integers(0, rings.n_items, (n_users, rings.n_genres))
    lengths = np.minimum(5 + rng.geometric(1 / (MEAN_LENGTH - 5), n_users), LONGEST)
    everybody = np.arange(n_users)
    watched = np.empty((n_users, int(lengths.max())), np.int64)
    for turn in range(watched.shape[1]):
        moved = rng.random(n_users) > STAY
        genres = np.where(moved, _choose(rng, liked), genres)
        here = rings.step(rng, genres, positions[everybody, genres])
        positions[everybody, genres] = here
        watched[:, turn] = rings.items(genres, here)
    strays = rng.random(watched.shape) < STRAY
    by_popularity = rings.popularity / rings.popularity.sum()
    watched[strays] = rng.choice(rings.n_items, int(strays.sum()), p=by_popularity)
    starts = YEAR_2025 + rng.integers(0, 300 * 24 * HOUR, n_users)
    times = starts[:, None] + np.cumsum(rng.exponential(48 * HOUR, watched.shape), 1).astype(int)

    users, turns = np.nonzero(np.arange(watched.shape[1]) < lengths[:, None])
    _, first = np.unique(users * rings.n_items + watched[users, turns], return_index=True)
    users, turns = users[first], turns[first]
    order = np.argsort(times[users, turns], kind="stable")
    users, turns = users[order], turns[order]
    return pa.table(
        {
            "user_id": _ids("u", n_users).take(pa.array(users)),
            "item_id": _ids("i", rings.n_items).take(pa.array(watched[users, turns])),
            "timestamp": pa.array(times[users, turns]).cast(EVENTS_SCHEMA.field("timestamp").type),
            "event": pa.repeat("watch", len(users)),
            "value": pa.nulls(len(users), pa.float32()),
        },
        schema=EVENTS_SCHEMA,
    )


def _catalogue(
    rng: np.random.Generator,
    rings: Rings,
    folder: Path | None,
    progress: Callable[[int, int | None], None] | None,
) -> pa.Table:
    """The films, and their posters in the folder if there is one."""
    places = np.argsort(rings.item_at)
    ids = _ids("i", rings.n_items)
    rows = []
    for item, place in enumerate(places):
        number, genre = divmod(int(place), rings.n_genres)
        genre_of = GENRES[genre]
        title, year = genre_of.title(number), 1950 + int(rng.integers(75))
        image = None
        if folder is not None:
            image = f"{PICTURES}/{ids[item]}.png"
            (folder / image).write_bytes(genre_of.poster(rng))
        rows.append(
            {
                "item_id": ids[item].as_py(),
                "title": title,
                "text": f"{title}. {genre_of.synopsis(rng)}",
                "image": image,
                "tags": [genre_of.name],
                "attributes": json.dumps({"year": year}),
                "available": True,
            }
        )
        if progress is not None:
            progress(item + 1, rings.n_items)
    return pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA)


def _choose(rng: np.random.Generator, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Int64[B]: for each row of weights Float64[B, K], one of the K in proportion to them."""
    totals = np.cumsum(weights, axis=1)
    drawn = rng.random(len(weights)) * totals[:, -1]
    chosen: NDArray[np.int64] = (totals[:, :-1] <= drawn[:, None]).sum(1)
    return chosen


def _ids(prefix: str, count: int) -> pa.Array:
    width = len(str(max(count - 1, 1)))
    return pa.array([f"{prefix}{i:0{width}d}" for i in range(count)], pa.string())
