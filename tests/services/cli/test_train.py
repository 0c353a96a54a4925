"""Where a hyper-parameter comes from: defaults, then the file, then what was typed."""

from __future__ import annotations

from pathlib import Path

from services.cli.train import read_config


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
