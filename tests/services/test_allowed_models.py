"""The encoders that may be named over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoders.checkpoint import MINILM
from encoders.text_input import DEFAULT_TEXT_MODEL
from services.allowed_models import RefusedModel, check_models


@pytest.mark.parametrize("name", [MINILM, DEFAULT_TEXT_MODEL])
def test_the_default_encoder_needs_no_leave_with_its_revision_or_without(name: str) -> None:
    check_models({"text": name}, [])


def test_a_folder_that_is_allowed_may_be_named_by_any_path_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, tmp_path / "link", tmp_path / "encoder" / ".." / "encoder"):
        check_models({"image": str(path)}, [str(folder)])


def test_a_name_that_is_allowed_is_so_at_no_other_revision() -> None:
    check_models({"image": "microsoft/resnet-18"}, ["microsoft/resnet-18"])
    with pytest.raises(RefusedModel, match="resnet-18@other"):
        check_models({"image": "microsoft/resnet-18@other"}, ["microsoft/resnet-18"])


@pytest.mark.parametrize("name", ["/", "~", "someone/model", "a\0b", "x" * 5000, "~nobody/x"])
def test_any_other_model_is_refused_with_the_name_of_the_setting(name: str) -> None:
    with pytest.raises(RefusedModel, match="RECSYS_ENCODER_MODELS"):
        check_models({"text": MINILM, "image": name}, ["microsoft/resnet-18"])
