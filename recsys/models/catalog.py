"""The catalog of model kinds: one name finds a model's configuration, model and fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from infra.errors import RecsysError
from recsys.data.histories import Histories
from recsys.models.gru4rec import Gru4recConfig
from recsys.models.ials import Ials, IalsConfig, IalsFit
from recsys.models.model import Fit, Model, ModelConfig, Workers
from recsys.models.next_item import NextItem
from recsys.models.next_item_fit import NextItemFit
from recsys.models.popularity import Popularity, PopularityConfig, PopularityFit
from recsys.models.sasrec import SasrecConfig


class UnknownKind(RecsysError):
    """There is no model of that name."""


@dataclass(frozen=True)
class Kind:
    """What belongs together under one name."""

    config: type[ModelConfig]
    model: type[Model]
    fit: Callable[[Any, Histories, int, Workers, torch.device], Fit]
    """Called with an object of `config`, the histories of all users, the number of items, the
    workers and the device."""


KINDS: dict[str, Kind] = {
    kind.config.kind: kind
    for kind in (
        Kind(PopularityConfig, Popularity, PopularityFit),
        Kind(IalsConfig, Ials, IalsFit),
        Kind(SasrecConfig, NextItem, NextItemFit),
        Kind(Gru4recConfig, NextItem, NextItemFit),
    )
}


def kind_of(name: str) -> Kind:
    """The kind of that name; raises UnknownKind, which names those there are."""
    try:
        return KINDS[name]
    except KeyError:
        raise UnknownKind(
            f"there is no model {name!r}; the models are {', '.join(KINDS)}"
        ) from None
