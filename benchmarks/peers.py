"""The libraries that `train.py` measures beside ours, each at its best as it is documented.

implicit: the settings that validate best of those that `recsys bench quality` tries at this
dimension, on MovieLens 1M for long histories and on Amazon Beauty for short ones; its own number of
sweeps.

RecTools: what the authors of eSASRec (arXiv 2508.06450), who train its SASRec, publish in
github.com/blondered/transformer_benchmark. Long histories: their replication of Klenitskiy &
Vasilev (arXiv 2309.07602) on MovieLens 1M, R@10 .3144, at most 100 epochs. Short ones:
configs/paper/loo/s3_vanilla.yaml for Amazon Beauty, R@10 .0921 and NDCG@10 .0531, at most 200
epochs with a patience of 50; what the file does not name is RecTools' default. Here all contenders
have the patience of `runs.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Peer:
    """A library, in an environment of its own."""

    package: str
    version: str
    beside: tuple[str, ...]
    """What else its environment holds."""

    script: str
    """The file of this folder that it is run by."""

    settings: Mapping[str, dict[str, Any]]
    """By the preset: what the data is like."""

    surroundings: dict[str, str]
    """Environment variables that it is run with."""

    @property
    def requirements(self) -> tuple[str, ...]:
        """What its environment holds, as pip is told."""
        return (f"{self.package}=={self.version}", *self.beside)


PEERS = {
    "implicit": Peer(
        package="implicit",
        version="0.7.3",
        beside=(),
        script="implicit_sweeps.py",
        settings={
            "long-histories": {
                "factors": 128,
                "regularization": 10.0,
                "alpha": 1.0,
                "iterations": 15,
            },
            "short-histories": {
                "factors": 128,
                "regularization": 0.1,
                "alpha": 10.0,
                "iterations": 15,
            },
        },
        surroundings={"OPENBLAS_NUM_THREADS": "1"},  # it shares its rows out itself
    ),
    "rectools": Peer(
        package="rectools[torch]",
        version="0.19.0",
        beside=("torch==2.13.0", "numpy<2"),
        script="rectools_sasrec.py",
        settings={
            "long-histories": {
                "n_factors": 64,
                "session_max_len": 200,
                "n_blocks": 2,
                "n_heads": 1,
                "dropout_rate": 0.1,
                "loss": "softmax",
                "batch_size": 128,
                "lr": 1e-3,
                "epochs": 100,
            },
            "short-histories": {
                "n_factors": 256,
                "session_max_len": 50,
                "n_blocks": 1,
                "n_heads": 1,
                "dropout_rate": 0.2,
                "loss": "sampled_softmax",
                "n_negatives": 256,
                "batch_size": 128,
                "lr": 1e-3,
                "epochs": 200,
            },
        },
        surroundings={},
    ),
}
