"""How a network is trained on what hardware: its number format, and whether it is compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch

from recsys.models.nets import Recurrent, SelfAttention


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it faster than float32, else float32.

    That is so on GPUs from Ampere on, and on processors with AVX512-BF16 or AMX. Weights, their
    gradients and the optimizer stay in float32 either way (mixed precision; Micikevicius et al.,
    arXiv 1710.03740).
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def fast_forward(
    network: SelfAttention | Recurrent, device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The network to train with: compiled on a GPU, where launching the many small kernels of a
    block takes longer than they run, whatever the lengths of a batch.

    As it is on a processor, whose time goes into the matrix products; and so is a recurrent one,
    which cuDNN has as one kernel.
    """
    if device.type != "cuda" or isinstance(network, Recurrent):
        return network
    torch._dynamo.reset()  # one that was compiled before counts against how many it holds
    compiled: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.compile(
        network, dynamic=True
    )
    return compiled
