"""What a training begins with: hyper-parameters from where, and which model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import RecsysError
from recsys.data.dataset import Dataset
from recsys.data.split import split_dataset
from recsys.models.ials import IalsConfig
from recsys.publish import publish
from recsys.registry import Registry
from recsys.training.fit import fit
from services.cli.train import read_config, start_of


def test_what_was_typed_goes_before_the_file_and_the_file_before_the_defaults(
    tmp_path: Path,
) -> None:
    file = tmp_path / "ials.toml"
    file.write_text("seed = 3\ndim = 32\nrecency = 0.5\n", encoding="utf-8")
    from_file = read_config("ials", file, [], None).model_dump()
    assert (from_file["seed"], from_file["dim"], from_file["recency"]) == (3, 32, 0.5)
    typed = read_config("ials", file, ["dim=16"], 7).model_dump()
    assert (typed["seed"], typed["dim"], typed["recency"]) == (7, 16, 0.5)
    assert read_config("ials", None, [], None).seed == 0


def test_what_has_learnt_the_validation_part_is_no_start(ring: Path, tmp_path: Path) -> None:
    dataset, registry = Dataset.load(ring), Registry(tmp_path / "models")
    split = split_dataset(dataset, "leave_one_out")
    fitted = fit(IalsConfig(dim=4), ring, run_dir=tmp_path / "run", workers=0, epochs=1)
    learnt = replace(fitted, learnt_validation=True)
    version = publish(registry, "ials", dataset, split, learnt).version
    registry.activate("ials", version)
    with pytest.raises(RecsysError, match="has learnt the validation part"):
        start_of(registry, "ials", "ials", "leave_one_out")
