"""Next-item models: a network reads a history and asks for the item that comes next.

What `sasrec` and `gru4rec` share, which is all but the network:

    score(history, i) = network(h_1 .. h_L)_L · e_i
    loss = mean of loss(score(h_1 .. h_t, ·), h_{t+1}) over every position t of every history

One pass over a history answers all its positions (the shifted-sequence objective). The losses
are those of `losses.py`. Time an epoch: O(positions · N · D) for the loss, until it is sampled,
O(steps · N · D) for the optimizer, which is dense, and the network's own. Memory: seven times the
N · D of the embeddings (gradient, twice more in backward, average and Adam's two moments), two
more with several workers, and the batch's activations.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from infra.errors import RecsysError
from recsys.data.histories import Histories
from recsys.data.vocabulary import UNKNOWN
from recsys.models.hardware import fast_dtype, fast_forward
from recsys.models.losses import cross_entropy, gbce, sampled_softmax
from recsys.models.model import Fit, Model, ModelConfig, Tensors, Workers
from recsys.models.nets import Recurrent, SelfAttention
from recsys.models.ranges import Between, OneOf, Range

POSITIONS_AT_ONCE = 2**14
"""Items, padding included, that go through the network together when a model answers."""

BUCKET = 16
"""Batches whose users are sorted by length together, so that a batch is little padded."""

FULL_SOFTMAX_BELOW = 50_000
"""Items of a catalogue from which on the loss "auto" is a sampled one."""


Network = SelfAttention | Recurrent


class NextItemConfig(ModelConfig):
    """Hyper-parameters of all next-item models."""

    ranges: ClassVar[Mapping[str, Range]] = {
        "dim": OneOf((32, 64, 128, 256)),
        "max_length": OneOf((25, 50, 100, 200)),
        "dropout": Between(0.0, 0.6),
        "learning_rate": Between(1e-4, 1e-2, log=True),
        "batch_size": OneOf((16, 32, 64, 128, 256)),
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

    batch_size: int = Field(64, ge=1)
    """Users in a step, over all workers."""

    min_steps: int = Field(20, ge=1)
    """An epoch passes over the users as often as makes so many steps, so that few users are not
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
        items = _items(network)
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
            sequences, lengths = _left_aligned(recent.take(rows), self._device)
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
        _load(network, {name: torch.from_numpy(np.array(t)) for name, t in tensors.items()})
        return cls(config, network)


class NextItemFit(Fit):
    """Fits a next-item model. Every worker takes its share of each batch's users, and the
    gradients are added up before the step: W workers do what one would with the same `batch_size`,
    but for the dropout and the drawn items, which each draws by itself."""

    def __init__(
        self,
        config: NextItemConfig,
        histories: Histories,
        n_items: int,
        workers: Workers,
        device: torch.device,
    ) -> None:
        self.config = config
        self.max_epochs = config.max_epochs
        self._workers, self._device = workers, device
        self._histories = histories.take(np.flatnonzero(histories.lengths > 1))
        if len(self._histories) == 0:
            raise RecsysError(
                f"{config.kind} learns an order and needs users with at least two events to train "
                "on; there is none. Train popularity, or give it longer histories"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._network = config.network(n_items).to(device)
        self._optimizer = torch.optim.Adam(
            self._network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), foreach=True
        )
        self._average = copy.deepcopy(self._network)
        self._step = 0
        self._loss_name = config.loss
        if config.loss == "auto":
            full = n_items < FULL_SOFTMAX_BELOW
            self._loss_name = "cross_entropy" if full else "sampled_softmax"
        counts = np.bincount(histories.items, minlength=n_items) + 1
        q = torch.from_numpy(counts / counts.sum()).to(device)
        self._up_to, self._log_q = q.cumsum(0), q.log().float()
        self._dtype = fast_dtype(device)
        self._forward = fast_forward(self._network, device)

    def warm_start(self, tensors: Tensors, rows: NDArray[np.int64]) -> None:
        network = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
        if "items.weight" not in network:
            raise ValueError("the tensor items.weight is missing")
        items = _items(self._network).detach().cpu().clone()
        before, known = network["items.weight"], torch.from_numpy(rows != UNKNOWN)
        if before.shape[1:] != items.shape[1:]:
            raise ValueError(
                f"items.weight has shape {list(before.shape)}, not [N, {items.shape[1]}]"
            )
        items[known] = before[torch.from_numpy(rows)[known]]
        for each in (self._network, self._average):
            _load(each, network | {"items.weight": items})

    def run_epoch(self, epoch: int) -> dict[str, float]:
        self._network.train()
        total, positions = torch.zeros(1, device=self._device), 0
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(hash((self.config.seed, epoch, self._workers.rank)) % 2**63)
            for batch in self._batches(epoch):
                n = int((batch.lengths - 1).sum())
                own = np.arange(self._workers.rank, len(batch), self._workers.size)
                total += self._train_step(batch.take(own), n) * n
                positions += n
        loss = self._workers.sum(total).item() / positions
        return {"loss": loss}

    def _batches(self, epoch: int) -> Iterator[Histories]:
        """The sequences of each step, the same on every worker: shuffled, of similar length."""
        rng = np.random.default_rng((self.config.seed, epoch))
        size = self.config.batch_size
        passes = -(-self.config.min_steps * size // len(self._histories))
        for _ in range(max(1, passes)):
            sequences = self._windows(rng)
            users = rng.permutation(len(sequences))
            batches: list[NDArray[np.int64]] = []
            for start in range(0, len(users), size * BUCKET):
                bucket = users[start : start + size * BUCKET]
                bucket = bucket[np.argsort(sequences.lengths[bucket], kind="stable")]
                batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
            for i in rng.permutation(len(batches)):
                yield sequences.take(batches[i])

    def _windows(self, rng: np.random.Generator) -> Histories:
        """Of each history what an epoch shows: `max_length` inputs and the target of the last."""
        spare = np.maximum(self._histories.lengths - (self.config.max_length + 1), 0)
        older = rng.random(len(spare)) < self.config.older_windows
        return self._histories.window(
            np.where(older, rng.integers(spare, endpoint=True), spare), self.config.max_length + 1
        )

    def _train_step(self, sequences: Histories, n: int) -> torch.Tensor:
        """One step of all workers; returns this worker's part of the mean loss over n positions."""
        self._step += 1
        warmth = min(1.0, self._step / max(1, self.config.warmup_steps))
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warmth
        self._optimizer.zero_grad(set_to_none=False)
        loss = torch.zeros((), device=self._device)
        if len(sequences):
            loss = self._loss(sequences, n)
            loss.backward()  # type: ignore[no-untyped-call]
        self._add_up_gradients()
        self._optimizer.step()
        self._update_average()
        return loss.detach()

    def _loss(self, sequences: Histories, n: int) -> torch.Tensor:
        inputs, targets = sequences.without_last(1), _without_first(sequences)
        table, lengths = _left_aligned(inputs, self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            hidden = self._forward(table, lengths)
        real = torch.arange(table.shape[1], device=self._device) < lengths[:, None]
        queries, items = hidden[real].to(self._dtype), _items(self._network)
        wanted = torch.from_numpy(targets).to(self._device)
        if self._loss_name == "cross_entropy":
            return cross_entropy(queries, items, wanted, n)
        if self._loss_name == "gbce":
            drawn = torch.randint(len(items), (self.config.negatives,), device=self._device)
            return gbce(
                queries, items, wanted, n, negatives=drawn, calibration=self.config.calibration
            )
        chance = torch.rand(self.config.negatives, dtype=torch.float64, device=self._device)
        drawn = torch.searchsorted(self._up_to, chance).clamp_max(len(items) - 1)
        return sampled_softmax(queries, items, wanted, n, negatives=drawn, log_q=self._log_q)

    @torch.no_grad()
    def _update_average(self) -> None:
        """An exponential average of the weights (Polyak & Juditsky 1992), shorter in the first
        steps, when they are still far from where they will be."""
        kept = min(self.config.averaging, self._step / (9 + self._step)) if self._step > 1 else 0.0
        averaged: list[torch.Tensor] = list(self._average.parameters())
        now: list[torch.Tensor] = list(self._network.parameters())
        torch._foreach_lerp_(averaged, now, 1 - kept)

    def _add_up_gradients(self) -> None:
        parameters = list(self._network.parameters())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self._workers.size == 1:
            return
        gradients = [cast(torch.Tensor, parameter.grad) for parameter in parameters]
        flat = self._workers.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def model(self) -> NextItem:
        return NextItem(self.config, copy.deepcopy(self._average))

    def state(self) -> dict[str, torch.Tensor]:
        state = {f"network.{name}": t for name, t in self._network.state_dict().items()}
        state |= {f"average.{name}": t for name, t in self._average.state_dict().items()}
        for i, parameter in enumerate(self._network.parameters()):
            for name, value in self._optimizer.state[parameter].items():
                state[f"adam.{i}.{name}"] = value
        state["step"] = torch.tensor(self._step)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        if "step" not in state:
            raise ValueError("the tensor step is missing")
        moments = [self._moments(i, state) for i in range(len(list(self._network.parameters())))]
        _load(self._network, _below("network.", state))
        _load(self._average, _below("average.", state))
        for parameter, of_parameter in zip(self._network.parameters(), moments, strict=True):
            self._optimizer.state[parameter] = of_parameter
        self._step = int(state["step"])

    def _moments(self, i: int, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What Adam remembers of the i-th parameter: nothing before the first step."""
        if int(state["step"]) == 0:
            return {}
        shape = list(self._network.parameters())[i].shape
        found: dict[str, torch.Tensor] = {}
        for name in ("step", "exp_avg", "exp_avg_sq"):
            key = f"adam.{i}.{name}"
            if key not in state:
                raise ValueError(f"the tensor {key} is missing")
            if name == "step":  # Adam keeps it beside the processor
                found[name] = state[key].clone()
                continue
            if state[key].shape != shape:
                raise ValueError(f"the tensor {key} is not of the shape {tuple(shape)}")
            found[name] = state[key].to(self._device, copy=True)
        return found


def _items(network: nn.Module) -> torch.Tensor:
    """Float[N, D], the item embeddings."""
    return cast(torch.Tensor, network.get_parameter("items.weight"))


def _below(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _load(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ValueError(f"the tensors are not those of this network: {error}") from None


def _left_aligned(histories: Histories, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Int64[B, L] with the items from the left and row 0 after their end, and Int64[B] lengths."""
    lengths = histories.lengths
    table = np.zeros((len(histories), int(lengths.max())), np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = histories.items
    return torch.from_numpy(table).to(device), torch.from_numpy(lengths).to(device)


def _without_first(histories: Histories) -> NDArray[np.int64]:
    """The items of all histories end to end, but the first of each."""
    keep = np.ones(len(histories.items), bool)
    keep[histories.offsets[:-1]] = False
    return histories.items[keep]
