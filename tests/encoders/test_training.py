"""A trained encoder's folder is whole, is an encoder, and says what it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ResNetModel

from encoders.contrastive import ContrastiveConfig
from encoders.image import ImageEncoder
from encoders.picture_file import read_pictures, write_pictures
from encoders.resnet import new_resnet
from encoders.training import ABOUT, EpochLoss, Trained, train
from infra.errors import RecsysError
from infra.roots import Unreached, Unreadable
from recsys.data.genres import GENRES

CONFIG = ContrastiveConfig(pixels=32, batch=16, epochs=3)
SIDE = 48


@pytest.fixture(scope="module")
def posters() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [GENRES[i % len(GENRES)].poster(rng) for i in range(48)]


@pytest.fixture(scope="module")
def pictures(posters: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / "pictures"
    assert write_pictures(path, [lambda data=data: data for data in posters], SIDE) == {}
    return path


def trained(pictures: Path, run_dir: Path, **options: object) -> Trained:
    torch.manual_seed(0)
    run_dir.mkdir()
    net = new_resnet(18, 0.125)
    return train(CONFIG, net, pictures, SIDE, run_dir=run_dir, **options)  # type: ignore[arg-type]


def test_pictures_that_cannot_be_read_are_left_out_and_told(
    posters: list[bytes], tmp_path: Path
) -> None:
    def gone() -> bytes:
        raise Unreadable("x.png", "is gone")

    sources = [lambda: posters[0], lambda: b"no picture", gone, lambda: posters[1]] * 5
    failures = write_pictures(tmp_path / "pictures", sources, SIDE)
    assert sorted(failures) == [place for place in range(20) if place % 4 in (1, 2)]
    assert "no picture" in failures[1]
    assert "is gone" in failures[2]
    kept = read_pictures(tmp_path / "pictures", SIDE)
    assert kept.shape == (10, 3, SIDE, SIDE)
    assert (kept == kept[[0, 1] * 5]).all(), "they keep their order"
    assert (kept[0] != kept[1]).any()


def test_pictures_that_cannot_be_read_for_now_are_not_left_out(tmp_path: Path) -> None:
    def unreached() -> bytes:
        raise Unreached("x.png", "the disk does not answer")

    with pytest.raises(Unreached):
        write_pictures(tmp_path / "pictures", [unreached], SIDE)
    assert not (tmp_path / "pictures").exists()


def test_each_epoch_is_told_and_the_net_is_another_one(pictures: Path, tmp_path: Path) -> None:
    told: list[EpochLoss] = []
    torch.manual_seed(0)
    before = new_resnet(18, 0.125).state_dict()
    result = trained(pictures, tmp_path / "run", on_epoch=told.append)
    assert [(each.epoch, each.epochs) for each in told] == [(0, 3), (1, 3), (2, 3)]
    assert [each.loss for each in told] == result.progress.losses
    assert result.progress.core_seconds > 0
    weights = "encoder.stages.0.layers.0.layer.0.convolution.weight"
    assert not torch.equal(result.net.state_dict()[weights], before[weights])


def test_the_same_seed_trains_the_same_net(pictures: Path, tmp_path: Path) -> None:
    one, other = (trained(pictures, tmp_path / name) for name in ("one", "other"))
    assert one.progress.losses == pytest.approx(other.progress.losses, rel=1e-5)


def test_what_is_saved_is_an_encoder_and_a_checkpoint_of_transformers(
    pictures: Path, posters: list[bytes], tmp_path: Path
) -> None:
    result = trained(pictures, tmp_path / "run")
    folder = tmp_path / "encoder"
    result.save(folder, {"data": "posters"})
    encoder = ImageEncoder.open(str(folder))
    encoded = encoder.encode(posters[:4])
    assert encoded.vectors.shape == (4, encoder.dim)
    assert not encoded.failures
    _, loading = ResNetModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())


def test_what_is_saved_says_what_it_was_trained_on(pictures: Path, tmp_path: Path) -> None:
    result = trained(pictures, tmp_path / "run")
    result.save(tmp_path / "encoder", {"data": "posters"})
    about = json.loads((tmp_path / "encoder" / ABOUT).read_text())
    assert about["data"] == "posters"
    assert about["pictures"] == 48
    assert about["epochs"] == 3
    assert about["loss"] == result.progress.losses[-1]
    assert ContrastiveConfig.model_validate(about["config"]) == CONFIG
    assert about["core_seconds"] > 0


def test_a_folder_that_exists_is_not_written_over(pictures: Path, tmp_path: Path) -> None:
    result = trained(pictures, tmp_path / "run")
    result.save(tmp_path / "encoder", {})
    with pytest.raises(FileExistsError):
        result.save(tmp_path / "encoder", {})


def test_too_few_pictures_are_refused_before_a_worker_starts(
    posters: list[bytes], tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures", [lambda: posters[0]], SIDE)
    with pytest.raises(RecsysError, match="too few"):
        trained(tmp_path / "pictures", tmp_path / "run", workers=2)
