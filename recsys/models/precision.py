"""The number format of training, chosen by the hardware."""

from __future__ import annotations

import torch


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
