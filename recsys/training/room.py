"""Room: the cores and GPUs that the machine or the cluster has for the workers of a fit."""

from __future__ import annotations

from typing import Any

import ray
import torch

from infra.errors import RecsysError
from infra.loopback import LOOPBACK


def room(workers: int, gpu: bool | None) -> bool:
    """Whether each worker gets a GPU. Raises RecsysError where Ray would wait for ever for cores
    or GPUs that this machine has not.

    A cluster of several machines may grow, and is waited for.
    """
    if workers == 0:
        if gpu and not torch.cuda.is_available():
            raise RecsysError("PyTorch sees no GPU here: train without --gpu")
        return torch.cuda.is_available() if gpu is None else gpu
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpu = there.get("GPU", 0) >= workers if gpu is None else gpu
    if ray.util.get_node_ip_address() != LOOPBACK:  # type: ignore[no-untyped-call]
        return gpu
    for name, key in (("cores", "CPU"), *([("GPUs", "GPU")] if gpu else [])):
        if there.get(key, 0) < workers:
            raise RecsysError(
                f"{workers} workers need as many {name} and this machine has "
                f"{int(there.get(key, 0))}: ask for fewer workers, or for a larger cluster"
            )
    return gpu


def cores(workers: int) -> int:
    """The cores of each worker, which Ray also makes its number of threads."""
    if workers == 0:
        return 1
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    there = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    return max(1, min(sum(there) // workers, *there)) if there else 1
