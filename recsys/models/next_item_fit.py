"""The fit of a next-item model: every position of every history asks for the item after it.

    loss = mean of loss(score(h_1 .. h_t, ·), h_{t+1}) over every position t of every history

One pass over a history answers all its positions (the shifted-sequence objective). The losses
are those of `losses.py`. Time an epoch: O(positions · N · D) for the loss, until it is sampled,
O(steps · N · D) for the optimizer, which is dense, and the network's own. Memory: seven times the
N · D of the embeddings (gradient, twice more in backward, average and Adam's two moments), two
more with several workers, and the batch's activations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from infra.errors import RecsysError
from recsys.data.histories import Histories
from recsys.data.vocabulary import UNKNOWN
from recsys.models.hardware import fast_dtype, fast_forward
from recsys.models.losses import cross_entropy, gbce, sampled_softmax
from recsys.models.model import Fit, Tensors, Workers
from recsys.models.next_item import (
    NextItem,
    NextItemConfig,
    item_embeddings,
    left_aligned,
    load_tensors,
)

BUCKET = 16
"""Steps whose users are sorted by length together, so that a step is little padded."""

FULL_SOFTMAX_BELOW = 50_000
"""Items of a catalogue from which on the loss "auto" is a sampled one."""


class NextItemFit(Fit):
    """Fits a next-item model. Every worker takes its share of each batch's users, and the
    gradients are added up before the step: W workers do what one would with the same
    `batch_events`, the drawn items included, but for the dropout, which each draws by itself."""

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
        longest = config.max_length + 1
        predictions = int((np.minimum(self._histories.lengths, longest) - 1).sum())
        self._steps = -(-predictions // config.batch_events)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._network = config.network(n_items).to(device)
        self._optimizer = torch.optim.Adam(
            self._network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), foreach=True
        )
        self._average = copy.deepcopy(self._network)
        self._step = 0
        self._drawing = torch.Generator(device)
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
        items = item_embeddings(self._network).detach().cpu().clone()
        before, known = network["items.weight"], torch.from_numpy(rows != UNKNOWN)
        if before.shape[1:] != items.shape[1:]:
            raise ValueError(
                f"items.weight has shape {list(before.shape)}, not [N, {items.shape[1]}]"
            )
        items[known] = before[torch.from_numpy(rows)[known]]
        for each in (self._network, self._average):
            load_tensors(each, network | {"items.weight": items})

    def run_epoch(self, epoch: int) -> dict[str, float]:
        self._network.train()
        total, positions = torch.zeros(1, device=self._device), 0
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(hash((self.config.seed, epoch, self._workers.rank)) % 2**63)
            self._drawing.manual_seed(hash((self.config.seed, epoch)) % 2**63)
            for batch in self._batches(epoch):
                n = int((batch.lengths - 1).sum())
                own = np.arange(self._workers.rank, len(batch), self._workers.size)
                total += self._train_step(batch.take(own), n) * n
                positions += n
        loss = self._workers.sum(total).item() / positions
        return {"loss": loss}

    def _batches(self, epoch: int) -> Iterator[Histories]:
        """The sequences of each step, the same on every worker: shuffled, of similar length, and
        of about `batch_events` predictions, so that every event weighs the same in an epoch."""
        rng = np.random.default_rng((self.config.seed, epoch))
        made = 0
        while made < self.config.min_steps:
            sequences = self._windows(rng)
            users = rng.permutation(len(sequences))
            bucket = _shares(sequences.lengths[users] - 1, self._steps) // BUCKET
            users = users[np.lexsort((sequences.lengths[users], bucket))]
            step = _shares(sequences.lengths[users] - 1, self._steps)
            batches = np.split(users, np.flatnonzero(np.diff(step)) + 1)
            made += len(batches)
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
        negatives = self._negatives()
        loss = torch.zeros((), device=self._device)
        if len(sequences):
            loss = self._loss(sequences, n, negatives)
            loss.backward()  # type: ignore[no-untyped-call]
        self._add_up_gradients()
        self._optimizer.step()
        self._update_average()
        return loss.detach()

    def _loss(self, sequences: Histories, n: int, negatives: torch.Tensor) -> torch.Tensor:
        inputs, targets = sequences.without_last(1), _without_first(sequences)
        table, lengths = left_aligned(inputs, self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            hidden = self._forward(table, lengths)
        real = torch.arange(table.shape[1], device=self._device) < lengths[:, None]
        queries, items = hidden[real].to(self._dtype), item_embeddings(self._network)
        wanted = torch.from_numpy(targets).to(self._device)
        if self._loss_name == "cross_entropy":
            return cross_entropy(queries, items, wanted, n)
        if self._loss_name == "gbce":
            calibration = self.config.calibration
            return gbce(queries, items, wanted, n, negatives=negatives, calibration=calibration)
        return sampled_softmax(queries, items, wanted, n, negatives=negatives, log_q=self._log_q)

    def _negatives(self) -> torch.Tensor:
        """Int64[S], the items of a step for a loss that draws, the same on every worker: evenly
        for gBCE, and else as often as they were touched."""
        shape, device, drawing = (self.config.negatives,), self._device, self._drawing
        if self._loss_name == "cross_entropy":
            return torch.empty(0, dtype=torch.int64, device=device)
        if self._loss_name == "gbce":
            return torch.randint(len(self._up_to), shape, device=device, generator=drawing)
        chance = torch.rand(shape, dtype=torch.float64, device=device, generator=drawing)
        return torch.searchsorted(self._up_to, chance).clamp_max(len(self._up_to) - 1)

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
        load_tensors(self._network, _below("network.", state))
        load_tensors(self._average, _below("average.", state))
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


def _shares(sizes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Int64[len(sizes)]: which of n shares of about the same size each belongs to, in order."""
    ends = np.cumsum(sizes)
    shares: NDArray[np.int64] = (ends - sizes) * n // ends[-1]
    return shares


def _below(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _without_first(histories: Histories) -> NDArray[np.int64]:
    """The items of all histories end to end, but the first of each."""
    keep = np.ones(len(histories.items), bool)
    keep[histories.offsets[:-1]] = False
    return histories.items[keep]
