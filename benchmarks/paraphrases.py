"""The paraphrase set: films that are asked for in other words, and which half of it each is in.

    film_paraphrases.tsv    movieId (MovieLens'), film, kind, query

Kinds: `plot` tells what happens, `facts` who made it, who plays in it or when, `title` is the title
garbled, translated or half remembered. The set was written by hand for this project from memory of
the films, most of them known to everybody, before any system was measured on it.
"""

from __future__ import annotations

import csv
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.data.dataset import Dataset

PATH = Path(__file__).with_name("film_paraphrases.tsv")


class NotTheFilms(RecsysError):
    """A Dataset that does not hold the films of the set."""


@dataclass(frozen=True, eq=False)
class Paraphrases:
    """Queries and the one item that each asks for."""

    queries: list[str]
    kinds: NDArray[np.str_]
    items: NDArray[np.int64]
    """Int64[Q], the Dataset's row of the film."""
    validation: NDArray[np.bool_]
    """Bool[Q], what settings are chosen on; the rest is the test. A film is in one half only."""

    @classmethod
    def of(cls, dataset: Dataset) -> Paraphrases:
        """The set's queries; raises NotTheFilms for a film that is missing or is another there."""
        with PATH.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
        row_of = {item: row for row, item in enumerate(dataset.catalogue["item_id"].to_pylist())}
        titles = dataset.catalogue["title"].to_pylist()
        for line in lines:
            row = row_of.get(line["movieId"])
            if row is None or not _words(line["film"]) <= _words(titles[row]):
                found = "is not there" if row is None else f"is {titles[row]!r}"
                raise NotTheFilms(
                    f"film {line['movieId']} of {PATH.name}, {line['film']!r}, {found} in "
                    f"{dataset.path}: import MovieLens' ml-latest-small"
                )
        films = [line["movieId"] for line in lines]
        return cls(
            queries=[line["query"] for line in lines],
            kinds=np.array([line["kind"] for line in lines]),
            items=np.array([row_of[film] for film in films], np.int64),
            validation=np.array([zlib.crc32(film.encode()) % 2 == 0 for film in films]),
        )


def _words(title: str) -> set[str]:
    return set(re.findall(r"\w+", title.lower()))
