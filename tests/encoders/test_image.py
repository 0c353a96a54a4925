"""Image checkpoints of every sort are loaded, and pictures seen as they say.

What holds for every encoder is in test_laws.py.
"""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from encoders.checkpoint import NoModel
from encoders.image import BATCH, ImageEncoder, fingerprint_of
from tests.encoders.models import tiny_bert, tiny_resnet


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_resnet(tmp_path_factory.mktemp("models") / "resnet")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A model that a test may change."""
    return tiny_resnet(tmp_path / "own")


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def noise(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def vector(model: Path, content: bytes) -> np.ndarray:
    encoded = ImageEncoder.open(str(model)).encode([content])
    assert not encoded.failures
    return encoded.vectors[0]


def test_many_pictures_keep_their_places_between_those_that_fail(model: Path) -> None:
    encoder = ImageEncoder.open(str(model))
    contents = [png(noise(seed)) for seed in range(2 * BATCH + 5)]
    whole = encoder.encode(contents).vectors
    bad = [0, 3, *range(BATCH, 2 * BATCH), 2 * BATCH + 4]  # a whole batch of them too
    for place in bad:
        contents[place] = b"no picture"
    encoded = encoder.encode(contents)
    assert sorted(encoded.failures) == bad
    good = np.setdiff1d(np.arange(len(contents)), bad)
    np.testing.assert_allclose(encoded.vectors[good], whole[good], atol=0.02)


def file_of(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def test_of_the_pictures_that_people_have_each_is_encoded_or_told_for_itself(model: Path) -> None:
    flag = noise(0, 3, 2).resize((96, 64), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    good = {
        "as it is": png(flag),
        "of a camera held upright": file_of(
            flag.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=turned, quality=95
        ),
        "in print colours": file_of(flag.convert("CMYK"), "JPEG", quality=95),
        "animated": file_of(
            flag, "WEBP", save_all=True, append_images=[noise(1, 96, 64)], quality=95
        ),
        "transparent": png(flag.convert("RGBA")),
        "far larger": file_of(flag.resize((960, 640), Image.Resampling.BICUBIC), "JPEG"),
    }
    bad = {
        "cut off": (png(noise(0))[:2000], "broken or cut off"),
        "a page that says it is gone": (b"<html>404</html>", "no picture"),
        "empty": (b"", "empty"),
        "a strip": (png(Image.new("RGB", (1, 99))), "50 times"),
    }
    encoded = ImageEncoder.open(str(model)).encode(
        [*good.values(), *(content for content, _ in bad.values())]
    )
    alike = dict(zip(good, encoded.vectors @ encoded.vectors[0], strict=False))
    another = vector(model, png(noise(1, 3, 2).resize((96, 64), Image.Resampling.BICUBIC)))
    assert min(alike.values()) > max(0.98, float(another @ encoded.vectors[0])), alike
    assert sorted(encoded.failures) == list(range(len(good), len(good) + len(bad)))
    for why, (_, told) in zip(
        (encoded.failures[place] for place in sorted(encoded.failures)), bad.values(), strict=True
    ):
        assert told in why


def test_a_folder_is_opened_and_used_without_a_connection(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    vector(model, png(noise(0)))


def test_a_fingerprint_needs_no_pytorch(model: Path) -> None:
    program = (
        "import sys; from encoders.image import fingerprint_of; print(fingerprint_of(sys.argv[1]));"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, model], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == fingerprint_of(str(model))


def test_the_preprocessing_is_part_of_the_fingerprint(own: Path) -> None:
    before = fingerprint_of(str(own))
    path = own / "preprocessor_config.json"
    path.write_text(path.read_text().replace("0.5", "0.4"))
    assert fingerprint_of(str(own)) != before


def test_weights_in_pytorchs_own_format_give_the_same_vectors(own: Path) -> None:
    before = vector(own, png(noise(0)))
    tensors = load_file(own / "model.safetensors")
    (own / "model.safetensors").unlink()
    torch.save(tensors, own / "pytorch_model.bin")
    np.testing.assert_array_equal(vector(own, png(noise(0))), before)


def test_weights_that_would_run_a_program_are_refused(own: Path, tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (own / "model.safetensors").unlink()
    torch.save({"x": Program()}, own / "pytorch_model.bin")
    with pytest.raises(NoModel, match="cannot be read"):
        ImageEncoder.open(str(own))
    assert not (tmp_path / "ran").exists()


def test_of_a_classifier_its_features_are_taken(own: Path) -> None:
    before = vector(own, png(noise(0)))
    config = ResNetConfig.from_pretrained(own)
    tensors = load_file(own / "model.safetensors")
    classifier = ResNetForImageClassification(config)
    classifier.resnet.load_state_dict(tensors)
    classifier.save_pretrained(own)
    np.testing.assert_array_equal(vector(own, png(noise(0))), before)


def test_the_preprocessing_of_published_resnets_is_understood(own: Path) -> None:
    """As `microsoft/resnet-50` has it: the size is one number, and names are older ones."""
    (own / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "crop_pct": 0.875,
                "do_normalize": True,
                "do_resize": True,
                "feature_extractor_type": "ConvNextFeatureExtractor",
                "image_mean": [0.485, 0.456, 0.406],
                "image_std": [0.229, 0.224, 0.225],
                "resample": 3,
                "size": 224,
            }
        )
    )
    assert np.linalg.norm(vector(own, png(noise(0)))) == pytest.approx(1, abs=1e-5)


def edges_changed(model: Path) -> float:
    """How far a wide picture's vector moves when its ends change and its middle does not."""
    wide = noise(0, width=120)
    other = noise(1, width=120)
    other.paste(wide.crop((30, 0, 90, 40)), (30, 0))
    return float(np.linalg.norm(vector(model, png(wide)) - vector(model, png(other))))


def test_the_middle_of_a_picture_counts_where_the_checkpoint_crops(own: Path) -> None:
    assert edges_changed(own) == 0


def test_the_whole_picture_counts_where_the_checkpoint_scales_it_whole(own: Path) -> None:
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(own)
    assert edges_changed(own) > 0.01


def test_weights_that_are_not_all_there_are_refused(own: Path) -> None:
    tensors = load_file(own / "model.safetensors")
    tensors.pop(next(name for name in tensors if name.endswith("convolution.weight")))
    save_file(tensors, own / "model.safetensors")
    with pytest.raises(NoModel, match="Missing key"):
        ImageEncoder.open(str(own))


def test_weights_that_are_cut_off_are_refused(own: Path) -> None:
    path = own / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(NoModel, match="cannot be read"):
        ImageEncoder.open(str(own))


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path / "bert")
    with pytest.raises(NoModel, match=r"no preprocessor_config\.json"):
        ImageEncoder.open(str(bert))
    (bert / "preprocessor_config.json").write_text('{"size": 224}')
    with pytest.raises(NoModel, match="the type 'bert', and not a resnet"):
        ImageEncoder.open(str(bert))


@pytest.mark.parametrize("written", ["", "[]", "{}", '{"size": "large"}'])
def test_preprocessing_that_says_nothing_is_refused(own: Path, written: str) -> None:
    (own / "preprocessor_config.json").write_text(written)
    with pytest.raises(NoModel, match="does not say how pictures are scaled"):
        ImageEncoder.open(str(own))


@pytest.mark.parametrize("lacking", ["model.safetensors", "preprocessor_config.json"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(own: Path, lacking: str) -> None:
    (own / lacking).unlink()
    with pytest.raises(NoModel, match=f"there is no .*{lacking}"):
        fingerprint_of(str(own))
