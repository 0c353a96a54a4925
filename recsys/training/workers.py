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

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def concatenate(self, tensor: torch.Tensor) -> torch.Tensor:
        own = torch.tensor([len(tensor)], device=tensor.device)
        counts = [torch.zeros_like(own) for _ in range(self.size)]
        dist.all_gather(counts, own)
        lengths = [int(count) for count in counts]
        # Collectives want equal shapes: pad to the longest, and cut again.
        padded = tensor.new_zeros((max(lengths), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def current_workers() -> Workers:
    """Those of the process group, or one alone where there is none."""
    return Distributed() if dist.is_initialized() and dist.get_world_size() > 1 else Alone()
