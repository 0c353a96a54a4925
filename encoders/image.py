"""Pictures to vectors: a ResNet's features, of unit length.

Any ResNet in `transformers`' layout serves: `microsoft/resnet-18` to `-152` from the hub, or a
folder, such as `recsys train image-encoder` writes. Pictures are scaled, cropped and normalised as
the checkpoint's own preprocessor_config.json says, by Pillow and without torchvision. A core with
AVX512-BF16 does 37 pictures of 224 pixels a second with a ResNet-18, and 305 of 64 pixels, decoding
included.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from encoders.checkpoint import CONFIG, Checkpoint, NoModel, find
from encoders.encoder import Encoded
from encoders.picture import BadPicture, decode

if TYPE_CHECKING:
    from encoders.resnet import Features

PREPROCESSOR = "preprocessor_config.json"

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The names that a checkpoint's weights may have, the better one first."""

PREPROCESSING = "picture 2"
"""What decoding and scaling make of a file, besides what the checkpoint says; raised when a change
of the code changes vectors."""

NUMBER_FORMAT = "float32"
"""Of the vectors. What they are computed in is the device's matter: half precision moves a vector
by less than 0.01."""

BATCH = 16
"""Pictures that go through the net together."""


class ImageEncoder:
    """A picture's file in, a vector out: an `Encoder[bytes]`.

    Memory: the net, two batches of pixels, and one whole picture for each of a few threads.
    """

    space = "image"

    def __init__(self, checkpoint: Checkpoint, features: Features, processor: Any) -> None:
        """processor: one of `transformers`' image processors; see `open`."""
        self.name = checkpoint.name
        self.fingerprint = _fingerprint(checkpoint)
        self.dim = features.dim
        self._features = features
        self._processor = processor
        self._side = _side(processor)

    @classmethod
    def open(cls, model: str, *, device: str = "cpu") -> Self:
        """The checkpoint in a folder, which needs no network, or of that name on the hub, as
        `microsoft/resnet-18` or `microsoft/resnet-18@revision`.

        Raises NoModel, which says what to do.
        """
        from encoders.resnet import Features, load_resnet

        checkpoint, weights = image_checkpoint(model)
        net = load_resnet(checkpoint.folder / CONFIG, weights)
        return cls(checkpoint, Features(net, device), _processor(checkpoint.folder))

    def encode(self, contents: Sequence[bytes]) -> Encoded:
        """contents: the bytes of picture files, of a format in `encoders.picture.FORMATS`."""
        vectors = np.zeros((len(contents), self.dim), np.float32)
        failures: dict[int, str] = {}
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1), "decode") as threads:
            for start, decoded in self._decoded(contents, threads):
                good = [i for i, each in enumerate(decoded) if not isinstance(each, str)]
                failures |= {
                    start + i: each for i, each in enumerate(decoded) if isinstance(each, str)
                }
                if not good:
                    continue
                found = self._features(np.stack([decoded[i] for i in good]))
                norms = np.linalg.norm(found, axis=1, keepdims=True)
                usable = (np.isfinite(norms) & (norms > 0))[:, 0]
                rows = start + np.array(good)
                vectors[rows[usable]] = found[usable] / norms[usable]
                failures |= dict.fromkeys(
                    rows[~usable].tolist(), "The model finds nothing in the picture."
                )
        return Encoded(vectors, failures)

    def _decoded(
        self, contents: Sequence[bytes], threads: ThreadPoolExecutor
    ) -> Iterator[tuple[int, list[NDArray[np.float32] | str]]]:
        """Batches: where each starts, and the pixels Float32[3, H, W] of each picture, or why
        there are none. A batch is decoded while the net is busy with the one before."""
        waiting: list[Future[NDArray[np.float32] | str]] = []
        for start in range(0, len(contents), BATCH):
            ahead = contents[start : start + BATCH]
            ready, waiting = waiting, [threads.submit(self._pixels, each) for each in ahead]
            if ready:
                yield start - BATCH, [each.result() for each in ready]
        if waiting:
            yield (len(contents) - 1) // BATCH * BATCH, [each.result() for each in waiting]

    def _pixels(self, content: bytes) -> NDArray[np.float32] | str:
        try:
            picture = decode(content, self._side)
        except BadPicture as error:
            return error.message
        scaled = self._processor(images=picture, return_tensors="np")["pixel_values"][0]
        return np.asarray(scaled, np.float32)


def fingerprint_of(model: str) -> str:
    """The fingerprint that `ImageEncoder.open(model)` has, without loading it, or PyTorch; raises
    NoModel."""
    checkpoint, _ = image_checkpoint(model)
    return _fingerprint(checkpoint)


def image_checkpoint(model: str) -> tuple[Checkpoint, Path]:
    """An image model's files, and which of them are the weights; raises NoModel."""
    checkpoint = find(model)
    folder = checkpoint.folder
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None or not (folder / PREPROCESSOR).is_file():
        lacks = " or ".join(WEIGHTS) if weights is None else PREPROCESSOR
        raise NoModel(f"{checkpoint.name} is no image model: there is no {lacks} in {folder}")
    return checkpoint, weights


def _fingerprint(checkpoint: Checkpoint) -> str:
    return checkpoint.fingerprint(PREPROCESSING, NUMBER_FORMAT)


def _side(processor: Any) -> int | None:
    """To how many pixels it scales the shorter edge of a picture, at most; None if it does not."""
    if not processor.do_resize:
        return None
    size = processor.size
    if size.height:
        return int(max(size.height, size.width))
    return int(size.shortest_edge / (processor.crop_pct or 1))


def _processor(folder: Path) -> Any:
    """What scales pictures for the model in the folder: as ConvNeXT does, which is what ResNets
    are published with and cuts out the middle, or as ViT does, which scales the whole picture."""
    from transformers import ConvNextImageProcessorPil, ViTImageProcessorPil

    path = folder / PREPROCESSOR
    try:
        size = json.loads(path.read_bytes())["size"]
        whole = isinstance(size, dict) and "height" in size
        kind = ViTImageProcessorPil if whole else ConvNextImageProcessorPil
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoModel(f"{path} does not say how pictures are scaled: {error}") from error
