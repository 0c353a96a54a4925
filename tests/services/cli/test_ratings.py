"""`recsys ratings`, from a Dataset to predictions that a person reads and a program parses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from infra.errors import RecsysError
from recsys.data.dataset import EVENTS_SCHEMA, ITEMS_SCHEMA, write_dataset
from recsys.data.readers import import_dataset
from recsys.models.biased_mf import BiasedMfConfig
from services.cli.main import app

GENRES = ("comedy", "drama")
PER_GENRE = 20
HIDDEN = "comedy-0"

Event = tuple[str, str, float | None]


def events_of_fans() -> list[Event]:
    """60 users who each love one genre and not the other, and rated half of the items; and one
    who looked at an item and rated none."""
    random = np.random.default_rng(0)
    items = [f"{genre}-{n}" for genre in GENRES for n in range(PER_GENRE)]
    events: list[Event] = [
        (f"{love}-fan-{user}", str(item), float(random.integers(4, 6)) if love in item else 1.5)
        for love in GENRES
        for user in range(30)
        for item in random.permutation(items)[:PER_GENRE]
    ]
    return [*events, ("mute", "comedy-1", None)]


def write(folder: Path, events: list[Event]) -> Path:
    users, items, values = zip(*events, strict=True)
    distinct = sorted(set(items))
    catalogue = pa.table(
        {
            "item_id": distinct,
            "title": [f"The {item} [uncut]" for item in distinct],
            "available": [item != HIDDEN for item in distinct],
            **{
                name: pa.nulls(len(distinct), ITEMS_SCHEMA.field(name).type)
                for name in ("text", "image", "tags", "attributes")
            },
        }
    ).select(ITEMS_SCHEMA.names)
    table = pa.table(
        {
            "user_id": users,
            "item_id": items,
            "timestamp": pa.array(range(len(events))).cast(pa.timestamp("ms", tz="UTC")),
            "event": ["rating"] * len(events),
            "value": values,
        },
        schema=EVENTS_SCHEMA,
    )
    write_dataset(folder, [table], catalogue, "fans")
    return folder


def recsys_ratings(*arguments: str | Path) -> Result:
    words = ["ratings", *map(str, arguments)]
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


def json_of(*arguments: str | Path) -> Any:
    result = recsys_ratings(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "films", events_of_fans())


@pytest.fixture(scope="module")
def model(films: Path) -> Path:
    folder = films.with_name("film-ratings")
    arguments = ("train", films, "--output", folder, "--dim", "4", "--seed", "1")
    result = recsys_ratings(*arguments)
    assert result.exit_code == 0, result.output
    return folder


def test_training_writes_a_folder_that_says_how_it_measured_and_what_it_cost(
    films: Path, tmp_path: Path
) -> None:
    told = json_of("train", films, "--output", tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert told["files"] == manifest["files"]
    assert sorted(manifest["files"]) == ["config.json", "items.parquet", "weights.safetensors"]
    (report,) = manifest["metrics"]
    assert report["protocol"]["split"] == "5-fold cross-validation over ratings, seed 0"
    assert report["metrics"]["rmse"]["value"] < 0.7  # the ratings' standard deviation is 1.6
    assert set(manifest["cost"]) == {"wall_s", "core_s", "peak_rss_mb"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_fan_is_predicted_to_love_what_is_left_of_the_genre(films: Path, model: Path) -> None:
    user = "comedy-fan-7"
    rated = {item for who, item, _ in events_of_fans() if who == user}
    told = json_of("predict", model, "--data", films, "--user", user, "-k", "5")
    assert (told["user_id"], told["ratings"]) == (user, PER_GENRE)
    items = [row["item_id"] for row in told["items"]]
    assert len(items) == 5
    assert all("comedy" in item for item in items)
    assert not rated & set(items)
    predicted = [row["predicted"] for row in told["items"]]
    assert predicted == sorted(predicted, reverse=True)
    assert all(3.5 < prediction <= 5 for prediction in predicted)


def test_what_is_not_available_is_predicted_only_where_it_is_asked_for(
    films: Path, model: Path
) -> None:
    arguments = ("predict", model, "--data", films, "--user", "mute")
    everything = json_of(*arguments, "-k", "1000")["items"]
    assert len(everything) == 2 * PER_GENRE - 1
    assert HIDDEN not in {row["item_id"] for row in everything}
    (asked,) = json_of(*arguments, "--item", HIDDEN)["items"]
    assert asked["item_id"] == HIDDEN


def test_items_are_predicted_in_the_order_asked_beside_what_the_user_gave(
    films: Path, model: Path
) -> None:
    user = "drama-fan-0"
    given = {item: value for who, item, value in events_of_fans() if who == user}
    items = ["drama-3", "comedy-4", "drama-1", "comedy-2"]
    options = [word for item in items for word in ("--item", item)]
    told = json_of("predict", model, "--data", films, "--user", user, *options)["items"]
    assert [row["item_id"] for row in told] == items
    assert [row["rated"] for row in told] == [given.get(item) for item in items]
    assert [row["predicted"] > 3 for row in told] == [True, False, True, False]


def test_a_user_of_newer_data_is_predicted_by_a_model_that_never_saw_one(
    model: Path, tmp_path: Path
) -> None:
    newer = write(
        tmp_path / "newer",
        [
            ("newcomer", "drama-1", 5.0),
            ("newcomer", "comedy-1", 1.0),
            ("newcomer", "opera-1", 4.0),
            ("newcomer", "drama-2", None),
        ],
    )
    result = recsys_ratings("predict", model, "--data", newer, "--user", "newcomer", "--json")
    told = json.loads(result.stdout)
    assert told["ratings"] == 2
    assert [row["item_id"] for row in told["items"]] == ["drama-2"]
    assert told["items"][0]["predicted"] > 3.5
    assert "1 of the user's ratings are left out" in " ".join(result.stderr.split())


def test_data_of_nothing_but_fives_are_predicted_from_too(model: Path, tmp_path: Path) -> None:
    fives = [("new", f"comedy-{n}", 5.0) for n in (1, 2, 3)]
    fives += [("other", item, 5.0) for item in ("drama-1", "comedy-4")]
    newer = write(tmp_path / "newer", [*fives])
    items = json_of("predict", model, "--data", newer, "--user", "new")["items"]
    assert [item["item_id"] for item in items] == ["comedy-4", "drama-1"]


def test_of_a_user_without_ratings_it_says_that_nothing_is_known(films: Path, model: Path) -> None:
    told = recsys_ratings("predict", model, "--data", films, "--user", "mute").stdout
    assert "ratings known of user mute: 0, so anybody would be told the same" in told


def test_titles_are_printed_as_they_stand(films: Path, model: Path) -> None:
    arguments = ("predict", model, "--data", films, "--user", "mute", "--item", "drama-1")
    assert "The drama-1 [uncut]" in recsys_ratings(*arguments).stdout


@pytest.mark.parametrize(
    ("option", "split"),
    [
        ((), "5-fold cross-validation over ratings, seed 0"),
        (("--leave-last-out",), "leave the last rating out"),
    ],
)
def test_evaluation_tells_the_model_from_the_mean(
    films: Path, option: tuple[str, ...], split: str
) -> None:
    reports = json_of("evaluate", films, "--dim", "4", *option)
    assert {report["protocol"]["split"] for report in reports.values()} == {split}
    mean, ours = (reports[name]["metrics"] for name in ("mean of all", "biased_mf"))
    assert ours["rmse"]["high"] < mean["rmse"]["low"] / 2
    shown = recsys_ratings("evaluate", films, "--dim", "4", *option).stdout
    assert f"{ours['rmse']['value']:.4f}" in shown
    assert f"{ours['mae']['value']:.4f}" in shown


def test_the_same_seed_trains_the_same_model(films: Path, model: Path, tmp_path: Path) -> None:
    digests = [
        json_of("train", films, "--output", tmp_path / seed, "--dim", "4", "--seed", seed)["files"]
        for seed in ("1", "2")
    ]
    sealed = json.loads((model / "manifest.json").read_text())["files"]
    assert digests[0] == sealed
    assert digests[1]["weights.safetensors"] != sealed["weights.safetensors"]


def test_the_help_names_the_defaults() -> None:
    told = " ".join(recsys_ratings("train", "--help").output.split())
    defaults = BiasedMfConfig()
    for value in (defaults.dim, defaults.regularization, defaults.seed):
        assert f"{value} by default" in told


def test_what_cannot_be_done_is_said_with_what_to_do(
    films: Path, model: Path, ring: Path, tmp_path: Path
) -> None:
    def refused(*arguments: str | Path) -> str:
        result = recsys_ratings(*arguments)
        assert result.exit_code == 1
        assert isinstance(result.exception, RecsysError)
        return result.exception.message

    few = write(tmp_path / "few", [("ann", "drama-1", 1.0), ("bob", "drama-1", 2.0)])
    new = ("--output", tmp_path / "new")
    predict = ("predict", model, "--data", films)
    assert "no user 'nobody': give a user_id" in refused(*predict, "--user", "nobody")
    unknown = ("--item", "opera-1", "--item", "drama-1")
    assert "knows no item 'opera-1'" in refused(*predict, "--user", "mute", *unknown)
    assert "recsys data import --value COLUMN" in refused("train", ring, *new)
    assert "recsys data import --value COLUMN" in refused("evaluate", ring)
    assert "2 ratings do not make 5 folds" in refused("train", few, *new)
    assert "no user has two ratings" in refused("evaluate", few, "--leave-last-out")
    assert "exists already: name another folder" in refused("train", films, "--output", model)
    assert "is refused: manifest.json" in refused("predict", films, *predict[2:], "--user", "mute")
    assert not (tmp_path / "new").exists()


def test_films_of_movielens_are_predicted_as_well_as_the_benchmark_says(
    shared_data: Path, tmp_path: Path
) -> None:
    import_dataset(shared_data / "ml-100k", tmp_path / "films")
    trained = json_of("train", tmp_path / "films", "--output", tmp_path / "model")
    assert trained["metrics"][0]["metrics"]["rmse"]["value"] == pytest.approx(0.907, abs=0.002)
    predict = ("predict", tmp_path / "model", "--data", tmp_path / "films", "--user", "42")
    (star_wars,) = json_of(*predict, "--item", "50")["items"]
    assert star_wars["title"] == "Star Wars (1977)"
    assert star_wars["predicted"] > 4
