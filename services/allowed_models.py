"""Allowed models: the encoders that a caller who is not the operator may have workers load.

A model is a folder of this machine or a download from the hub, and takes memory and disk; whoever
may ask for a job over HTTP is not thereby trusted to choose among all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from encoders.checkpoint import folder_of, pinned
from encoders.text_input import DEFAULT_TEXT_MODEL
from infra.errors import RecsysError


class RefusedModel(RecsysError):
    """An encoder that may not be named in a request."""

    def __init__(self, space: str, model: str) -> None:
        super().__init__(
            f"the encoder {model!r} may not be named over HTTP: have the operator add it to "
            "RECSYS_ENCODER_MODELS, or submit the job there with `recsys embed`"
        )
        self.space = space


def check_models(asked: Mapping[str, str], allowed: Sequence[str]) -> None:
    """Raise RefusedModel unless each model is the default text encoder or one of those allowed.

    asked: by space. A folder is the same by whatever path it is named.
    """
    known = {_one_name(model) for model in (DEFAULT_TEXT_MODEL, *allowed)}
    for space, model in asked.items():
        if _one_name(model) not in known:
            raise RefusedModel(space, model)


def _one_name(model: str) -> str:
    return str(folder_of(model) or pinned(model))
