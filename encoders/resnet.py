"""ResNet (He et al. 2015, arXiv 1512.03385): pixels to features, in PyTorch.

The net is `transformers`' own, so that its checkpoints are everybody's. Its features are the last
stage's, averaged over the picture: D = 512 for the sizes 18 and 34, 2,048 from 50 on.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from encoders.batches import inference_dtype
from encoders.checkpoint import NoModel

SIZES: Mapping[int, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2), (64, 128, 256, 512)),
    34: ("basic", (3, 4, 6, 3), (64, 128, 256, 512)),
    50: ("bottleneck", (3, 4, 6, 3), (256, 512, 1024, 2048)),
    101: ("bottleneck", (3, 4, 23, 3), (256, 512, 1024, 2048)),
}
"""By its number of layers: the kind of its blocks, how many in each stage, and their channels."""


def new_resnet(size: int, width: float = 1.0) -> ResNetModel:
    """A net with random weights of torch's generator. size: one of SIZES; width: what its channels
    are multiplied by."""
    kind, depths, channels = SIZES[size]
    return ResNetModel(
        ResNetConfig(
            layer_type=kind,
            depths=list(depths),
            hidden_sizes=[round(each * width) for each in channels],
            embedding_size=round(64 * width),
        )
    )


def load_resnet(config: Path, weights: Path) -> ResNetModel:
    """The net of a config.json, with the weights of a model or of a classifier, in single
    precision. Raises NoModel if it is of another kind, or they are broken or not all there.
    """
    try:
        values = json.loads(config.read_bytes())
        if values.get("model_type") != "resnet":
            raise NoModel(
                f"{config} describes a model of the type {values.get('model_type')!r}, and not a "
                "resnet"
            )
        with torch.device("meta"):  # nothing is drawn, nothing allocated
            net = ResNetModel(ResNetConfig.from_dict(values))
        tensors = {
            name: each.float() if each.is_floating_point() else each  # not what counts batches
            for name, each in _tensors(weights).items()
        }
        net.load_state_dict(tensors, assign=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise NoModel(f"the checkpoint in {config.parent} cannot be read: {error}") from error
    return net


def save_resnet(net: ResNetModel, folder: Path) -> None:
    """Write a folder's config.json and model.safetensors, as the net's `save_pretrained` does, but
    without its progress bars."""
    net.config.architectures = [type(net).__name__]
    net.config.save_pretrained(folder)
    tensors = {name: each.cpu().contiguous() for name, each in net.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def features(net: nn.Module, pixels: Tensor) -> Tensor:
    """Float[B, D]. pixels: Float[B, 3, H, W], normalised."""
    pooled: Tensor = net(pixels.contiguous(memory_format=torch.channels_last)).pooler_output
    return pooled.flatten(1)


class Features:
    """A net made ready to be asked, in half precision where that is faster."""

    def __init__(self, net: ResNetModel, device: str) -> None:
        self.dim: int = list(net.config.hidden_sizes or ())[-1]
        self._device = torch.device(device)
        self._format = inference_dtype(self._device)
        # With channels last its convolutions are half as fast again.
        ready = net.train(False).requires_grad_(False).to(memory_format=torch.channels_last)
        self._net = ready.to(self._device, self._format)

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32[B, D]. pixels: Float32[B, 3, H, W]."""
        with torch.inference_mode():
            given = torch.from_numpy(pixels).to(self._device, self._format)
            return features(self._net, given).float().cpu().numpy()


def _tensors(path: Path) -> dict[str, Tensor]:
    """The net's own tensors, without a classifier's head."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
    else:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    named = {name.removeprefix("resnet."): tensor for name, tensor in tensors.items()}
    return {name: each for name, each in named.items() if not name.startswith("classifier.")}
