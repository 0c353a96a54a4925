"""The encoders that a worker or the service has open, while their folders change under them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from encoders.catalog import fingerprint_of, open_encoder
from encoders.checkpoint import Checkpoint, NoModel
from encoders.text_input import fingerprint
from services.embedding import CatalogEncoders, OtherEncoder, encoder_of
from tests.encoders.models import tiny_bert


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert(tmp_path / "bert")


def replace(folder: Path) -> str:
    """Put other weights in the folder's place; their fingerprint."""
    shutil.rmtree(folder)
    tiny_bert(folder, seed=1)
    return fingerprint_of("text", str(folder))


def test_an_encoder_is_opened_once_while_its_files_stay(folder: Path) -> None:
    encoders, wanted = CatalogEncoders("cpu"), fingerprint_of("text", str(folder))
    first = encoder_of(encoders, "text", str(folder), wanted)
    assert encoder_of(encoders, "text", str(folder), wanted) is first


def test_an_encoder_whose_folder_was_replaced_is_opened_anew(folder: Path) -> None:
    encoders, before = CatalogEncoders("cpu"), fingerprint_of("text", str(folder))
    old = encoder_of(encoders, "text", str(folder), before)
    after = replace(folder)
    new = encoder_of(encoders, "text", str(folder), after)
    assert new.fingerprint == after != before
    assert (new.encode(["red"]).vectors != old.encode(["red"]).vectors).any()


def test_an_encoder_that_is_open_serves_on_for_its_fingerprint(folder: Path) -> None:
    encoders, before = CatalogEncoders("cpu"), fingerprint_of("text", str(folder))
    old = encoder_of(encoders, "text", str(folder), before)
    replace(folder)
    assert encoder_of(encoders, "text", str(folder), before) is old


def test_an_encoder_that_is_gone_is_told_and_the_next_one_is_kept(folder: Path) -> None:
    encoders, before = CatalogEncoders("cpu"), fingerprint_of("text", str(folder))
    after = replace(folder)
    with pytest.raises(OtherEncoder, match=f"{before}.*{after}"):
        encoder_of(encoders, "text", str(folder), before)
    kept = encoders.open("text", str(folder), after)
    with pytest.raises(OtherEncoder):
        encoder_of(encoders, "text", str(folder), before)
    assert encoders.open("text", str(folder), after) is kept


def test_what_a_training_writes_beside_a_model_is_not_of_its_fingerprint(folder: Path) -> None:
    before = open_encoder("text", str(folder), device="cpu").fingerprint
    (folder / "training.json").write_text("{}")
    (folder / "trainer_state.json").write_text("{}")
    assert fingerprint_of("text", str(folder)) == before


def test_a_file_that_is_rewritten_in_place_changes_the_fingerprint(folder: Path) -> None:
    before = fingerprint_of("text", str(folder))
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace("64", "32"))
    assert fingerprint_of("text", str(folder)) != before


def test_weights_that_come_while_the_old_ones_are_loaded_do_not_pass_for_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def then_replaced(checkpoint: Checkpoint) -> str:
        found = fingerprint(checkpoint)
        replace(folder)
        return found

    monkeypatch.setattr("encoders.text.fingerprint", then_replaced)
    with pytest.raises(NoModel, match="exchanged while"):
        open_encoder("text", str(folder), device="cpu")
