"""The workers of a fit over torch.distributed: gloo between processors, NCCL between GPUs."""

from __future__ import annotations

import torch
import torch.distributed as dist

from recsys.models.model import Alone, Workers


class Distributed:
    """The Workers of the process group that this process is in."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        # NCCL moves only what lies on a GPU; sums of counts and seconds lie beside it.
        self._device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.to(self._device, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def concatenate(self, tensor: torch.Tensor) -> torch.Tensor:
        own = torch.tensor([len(tensor)], device=self._device)
        counts = [torch.zeros_like(own) for _ in range(self.size)]
        dist.all_gather(counts, own)
        lengths = [int(count) for count in counts]
        # Collectives want equal shapes: pad to the longest, and cut again.
        shape = (max(lengths), *tensor.shape[1:])
        padded = torch.zeros(shape, dtype=tensor.dtype, device=self._device)
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        whole = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
        return whole.to(tensor.device)


def current_workers() -> Workers:
    """Those of the process group, or one alone where there is none."""
    return Distributed() if dist.is_initialized() and dist.get_world_size() > 1 else Alone()
