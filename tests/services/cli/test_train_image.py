"""`recsys train image-encoder`: pictures in, an encoder's folder out; `recsys train` as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from encoders.image import ImageEncoder
from encoders.training import ABOUT
from recsys.data.dataset import ITEMS_SCHEMA, write_dataset
from recsys.data.genres import GENRES
from services.cli.main import app

TINY = ("--epochs", "1", "--pixels", "32", "--workers", "0", "--no-gpu")


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Dataset of twelve films with posters, one with a picture that is none, one with one that
    is not there, and one without."""
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path / "state"))
    folder = tmp_path / "films"
    rng = np.random.default_rng(0)
    images = [f"{i}.png" for i in range(12)] + ["bad.png", "file:///etc/passwd", None]
    n = len(images)
    catalogue = pa.table(
        {
            "item_id": [f"i{i}" for i in range(n)],
            "title": [f"Film {i}" for i in range(n)],
            "text": pa.nulls(n, pa.string()),
            "image": images,
            "tags": [[]] * n,
            "attributes": pa.nulls(n, pa.string()),
            "available": [True] * n,
        },
        schema=ITEMS_SCHEMA,
    )
    write_dataset(folder, [], catalogue, "posters")
    for i in range(12):
        (folder / f"{i}.png").write_bytes(GENRES[i].poster(rng))
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def train(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", "image-encoder", *map(str, arguments)])


def told(result: Any) -> str:
    return " ".join(f"{result.output} {result.exception or ''}".split())


def test_the_folder_is_an_encoder_and_bad_pictures_are_left_out(
    films: Path, tmp_path: Path
) -> None:
    result = train("--data", films, "--output", tmp_path / "encoder", "--json", *TINY)
    assert result.exit_code == 0, told(result)
    report = json.loads(result.stdout)
    assert report["pictures"] == 12
    assert sorted(report["left_out"]) == ["i12", "i13"]
    assert "outside the folders" in report["left_out"]["i13"]
    about = json.loads((tmp_path / "encoder" / ABOUT).read_text())
    assert about["pictures_left_out"] == 2
    assert about["config"]["pixels"] == 32
    encoder = ImageEncoder.open(str(tmp_path / "encoder"))
    assert not encoder.encode([(films / "0.png").read_bytes()]).failures
    assert list((tmp_path / "state" / "runs").iterdir()) == []


def test_training_goes_on_from_another_encoder(films: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert train("--data", films, "--output", one, *TINY).exit_code == 0
    assert train("--data", films, "--output", other, "--from", one, *TINY).exit_code == 0
    assert json.loads((other / ABOUT).read_text())["from"] == str(one)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--size", "19"), "--size: there are 18, 34, 50, 101"),
        (("--size", "18", "--from", "x"), "has a size already"),
        (("--epochs", "0"), "--epochs: "),
        (("--pixels", "8"), "--pixels: "),
        (("--from", "/no/such folder"), "there is no folder"),
        (("--output", "."), "exists already: name another folder"),
    ],
)
def test_wrong_usage_is_told_before_a_picture_is_read(
    films: Path, arguments: tuple[str, ...], reason: str
) -> None:
    result = train("--data", films, *arguments)
    assert result.exit_code != 0
    assert reason in told(result)


def test_a_catalogue_without_pictures_is_refused(films: Path, tmp_path: Path) -> None:
    for i in range(12):
        (films / f"{i}.png").unlink()
    result = train("--data", films, "--output", tmp_path / "encoder", *TINY)
    assert "has a picture that can be read" in told(result)
    assert not (tmp_path / "encoder").exists()


def test_what_it_takes_is_told_apart_from_what_models_take() -> None:
    runner = CliRunner()
    image = " ".join(runner.invoke(app, ["train", "image-encoder", "--help"]).output.split())
    model = " ".join(runner.invoke(app, ["train", "--help"]).output.split())
    assert "--pixels" in image
    assert "--warm-start" not in image
    assert "--pixels" not in model
    assert "image-encoder" in model
