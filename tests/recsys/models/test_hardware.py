"""What training takes from the hardware, as far as it can be seen without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from recsys.models.gru4rec import Gru4recConfig
from recsys.models.hardware import fast_dtype, fast_forward
from recsys.models.sasrec import SasrecConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "config",
    [
        SasrecConfig(dim=16, max_length=50, block="gated", positions="relative"),
        SasrecConfig(dim=16, max_length=50, block="classic", positions="absolute"),
    ],
    ids=["gated", "classic"],
)
def test_a_network_compiles_whole_and_then_no_more_for_batches_of_any_shape(
    config: SasrecConfig,
) -> None:
    torch.manual_seed(0)
    network = config.network(20).eval()
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(network, backend=counter, dynamic=True, fullgraph=True)
    graphs = []
    for users, length in ((5, 9), (3, 30), (8, 17)):
        sequences = torch.randint(20, (users, length))
        lengths = torch.randint(1, length + 1, (users,))
        gradients = []
        for forward in (network, compiled):
            network.zero_grad()
            forward(sequences, lengths).square().sum().backward()
            gradients.append([parameter.grad for parameter in network.parameters()])
        torch.testing.assert_close(*gradients)
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[1] == graphs[2]


def test_nothing_is_compiled_for_a_processor() -> None:
    for config in (SasrecConfig(dim=16), Gru4recConfig(dim=16)):
        network = config.network(20)
        assert fast_forward(network, CPU) is network


@pytest.mark.parametrize(
    ("avx512", "amx", "dtype"),
    [
        (False, False, torch.float32),
        (True, False, torch.bfloat16),
        (False, True, torch.bfloat16),
    ],
)
def test_a_processor_trains_in_bfloat16_only_where_it_multiplies_it_faster(
    avx512: bool, amx: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert fast_dtype(CPU) == dtype
