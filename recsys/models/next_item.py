"""Next-item models: a network reads a history and asks for the item that comes next.

What `sasrec` and `gru4rec` share, which is all but the network:

    score(history, i) = network(h_1 .. h_L)_L · e_i

`next_item_fit.py` fits them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from recsys.data.histories import Histories
from recsys.models.model import Model, ModelConfig, Tensors
from recsys.models.nets import Recurrent, SelfAttention
from recsys.models.ranges import Between, OneOf, Range

POSITIONS_AT_ONCE = 2**14
"""Items, padding included, that go through the network together when a model answers."""

Network = SelfAttention | Recurrent


class NextItemConfig(ModelConfig):
    """Hyper-parameters of all next-item models."""

    ranges: ClassVar[Mapping[str, Range]] = {
        "dim": OneOf((32, 64, 128, 256)),
        "max_length": OneOf((25, 50, 100, 200)),
        "dropout": Between(0.0, 0.6),
        "learning_rate": Between(1e-4, 1e-2, log=True),
        "batch_events": OneOf((256, 512, 1024, 2048, 4096)),
    }

    dim: int = Field(64, ge=1)
    """Length of an item vector."""

    max_length: int = Field(200, ge=1)
    """The newest so many items of a history are looked at."""

    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of activations that are dropped in training."""

    loss: Literal["auto", "cross_entropy", "sampled_softmax", "gbce"] = "auto"
    """What is minimised; "auto" is the full cross-entropy, or the sampled softmax where the
    catalogue has 50,000 items or more."""

    negatives: int = Field(4096, ge=1)
    """Items drawn a step for the losses that draw."""

    calibration: float = Field(0.75, ge=0, le=1)
    """t of gBCE: 0 is the plain binary cross-entropy, 1 undoes all overconfidence."""

    learning_rate: float = Field(1e-3, gt=0)
    """Adam's step after the warm-up."""

    warmup_steps: int = Field(100, ge=0)
    """Steps over which the learning rate rises to its full height."""

    older_windows: float = Field(0.7, ge=0, le=1)
    """How often an epoch shows, of a history longer than `max_length`, a part drawn from anywhere
    in it instead of the newest."""

    averaging: float = Field(0.998, ge=0, lt=1)
    """What a step keeps of the average of all steps' weights, which is the model; 0 takes the
    last step's weights."""

    batch_events: int = Field(1024, ge=1)
    """Predictions in a step, over all workers, which are the events of its histories but the first
    of each: as many users as have them. Counted in users, a step of short histories would weigh
    each of its events more than one of long histories does."""

    min_steps: int = Field(20, ge=1)
    """An epoch passes over the events as often as makes so many steps, so that few users are not
    validated on, and stopped by, the noise of a handful of steps."""

    max_epochs: int = Field(100, ge=1)
    """At most so many epochs, if validation does not stop the fit before."""

    @abstractmethod
    def network(self, n_items: int) -> Network:
        """A new network, its weights drawn from torch's generator."""


class NextItem(Model):
    """A fitted next-item model. An empty history gives the zero vector."""

    config: NextItemConfig

    def __init__(self, config: NextItemConfig, network: Network) -> None:
        self.config = config
        self._network = network.eval()
        items = item_embeddings(network)
        self._device = items.device
        self._item_vectors = items.detach().float().cpu().numpy()

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        return self._item_vectors

    @torch.inference_mode()
    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        recent = histories.last(self.config.max_length)
        vectors = np.zeros((len(recent), self.config.dim), np.float32)
        longest_first = np.argsort(-recent.lengths, kind="stable")
        longest_first = longest_first[recent.lengths[longest_first] > 0]
        start = 0
        while start < len(longest_first):
            longest = int(recent.lengths[longest_first[start]])
            rows = longest_first[start : start + max(1, POSITIONS_AT_ONCE // longest)]
            sequences, lengths = left_aligned(recent.take(rows), self._device)
            vectors[rows] = self._network.last(sequences, lengths).float().cpu().numpy()
            start += len(rows)
        return vectors

    def tensors(self) -> Tensors:
        return {
            name: tensor.detach().float().cpu().numpy()
            for name, tensor in self._network.state_dict().items()
        }

    @classmethod
    def restore(cls, config: ModelConfig, tensors: Tensors) -> Self:
        if not isinstance(config, NextItemConfig):
            raise ValueError(
                f"sasrec and gru4rec need a config of their own, not {type(config).__name__}"
            )
        if "items.weight" not in tensors:
            raise ValueError("the tensor items.weight is missing")
        network = config.network(len(tensors["items.weight"]))
        load_tensors(network, {name: torch.from_numpy(np.array(t)) for name, t in tensors.items()})
        return cls(config, network)


def item_embeddings(network: nn.Module) -> torch.Tensor:
    """Float[N, D], the item embeddings."""
    return cast(torch.Tensor, network.get_parameter("items.weight"))


def load_tensors(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ValueError(f"the tensors are not those of this network: {error}") from None


def left_aligned(histories: Histories, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Int64[B, L] with the items from the left and row 0 after their end, and Int64[B] lengths."""
    lengths = histories.lengths
    table = np.zeros((len(histories), int(lengths.max())), np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = histories.items
    return torch.from_numpy(table).to(device), torch.from_numpy(lengths).to(device)
