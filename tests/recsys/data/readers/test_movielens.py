"""MovieLens films whose titles hold what parts the fields, and editions without films."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.data.dataset import Dataset
from recsys.data.readers import BadRow, import_dataset

LATEST = {"ratings.csv": "userId,movieId,rating,timestamp\n1,10,4,978300760\n"}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def double_colons(folder: Path, film: str) -> Path:
    return write(folder, {"ratings.dat": "1::10::4::978300760\n", "movies.dat": f"{film}\n"})


@pytest.mark.parametrize(
    "title", ["Alien", "Alien:", "Alien: Resurrection", "A\tlien", ":Alien", ":", '"A"']
)
def test_a_title_may_hold_colons_tabs_and_quotes_between_double_colons(
    tmp_path: Path, title: str
) -> None:
    import_dataset(double_colons(tmp_path, f"10::{title}::Drama|Horror"), tmp_path / "out")
    (film,) = Dataset.load(tmp_path / "out").catalogue.to_pylist()
    assert (film["title"], film["tags"]) == (title, ["Drama", "Horror"])


def test_a_title_that_holds_the_double_colon_is_refused(tmp_path: Path) -> None:
    source = double_colons(tmp_path, "10::Alien::Resurrection::Drama")
    with pytest.raises(BadRow, match=r"movies\.dat, line 1, the row: it has 4 fields"):
        import_dataset(source, tmp_path / "out")


@pytest.mark.parametrize("rest", ["", "\n\n"])
def test_films_of_a_header_alone_are_none(tmp_path: Path, rest: str) -> None:
    source = write(tmp_path, LATEST | {"movies.csv": f"movieId,title,genres\n{rest}"})
    import_dataset(source, tmp_path / "out")
    assert Dataset.load(tmp_path / "out").catalogue["title"].to_pylist() == ["10"]
