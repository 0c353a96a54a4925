"""The catalog of encoders: the name of a space finds who encodes for it."""

from __future__ import annotations

from typing import Any

from encoders.checkpoint import NoModel
from encoders.encoder import Encoder
from infra.errors import RecsysError

SPACES = ("text", "image")


class UnknownSpace(RecsysError):
    """There is no space of that name whose vectors an encoder makes."""


def open_encoder(space: str, model: str, *, device: str | None = None) -> Encoder[Any]:
    """The encoder of the space that is of that name or in that folder.

    device: as torch names it; a GPU where there is one if it is left out.
    Raises UnknownSpace and NoModel. An encoder's libraries are loaded when it is opened.
    """
    encoder = _loaded(space, model, device)
    if encoder.fingerprint != fingerprint_of(space, model):
        raise NoModel(f"the files of {model} were exchanged while they were loaded: try again")
    return encoder


def _loaded(space: str, model: str, device: str | None) -> Encoder[Any]:
    if space == "text":
        from encoders.text import TextEncoder

        return TextEncoder.open(model, device=device or best_device())
    if space == "image":
        from encoders.image import ImageEncoder

        return ImageEncoder.open(model, device=device or best_device())
    raise _unknown(space)


def fingerprint_of(space: str, model: str) -> str:
    """The fingerprint that the encoder has, without loading it; raises UnknownSpace and NoModel."""
    if space == "text":
        from encoders import text_input

        return text_input.fingerprint_of(model)
    if space == "image":
        from encoders import image

        return image.fingerprint_of(model)
    raise _unknown(space)


def best_device() -> str:
    """A GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _unknown(space: str) -> UnknownSpace:
    return UnknownSpace(f"no encoder makes vectors of {space!r}; they are {', '.join(SPACES)}")
