"""The cross-encoder of searches: when it is loaded, and what is told where it fails."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from encoders.cross_encoder import CrossEncoder
from services import reranker
from services.problems import Invalid, Unavailable
from services.reranker import Reranker
from tests.encoders.models import tiny_bert


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert(tmp_path / "bert", labels=1)


def test_it_is_loaded_before_the_first_search_and_once(folder: Path) -> None:
    ranker = Reranker(str(folder))
    ranker.warm()
    shutil.rmtree(folder)
    scores = ranker.rerank("red", ["a red sea", "", "green"])
    assert isinstance(scores, list)
    assert scores[1] == -float("inf") < min(scores[0], scores[2])


def test_one_that_is_not_there_is_told_to_whoever_asks_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ranker = Reranker(str(tmp_path / "no model"))
    ranker.warm()
    assert "no search is re-ranked" in caplog.text
    answer = ranker.rerank("red", ["a red sea"])
    assert isinstance(answer, Unavailable)
    assert "no model" in answer.message
    assert "RECSYS_RERANK_MODEL" in answer.message


def test_who_asks_while_it_is_loaded_is_told_so_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, loaded = threading.Event(), threading.Event()
    open_ = CrossEncoder.open

    def slowly(*arguments: Any, **options: Any) -> CrossEncoder:
        loading.set()
        assert loaded.wait(30)
        return open_(*arguments, **options)

    monkeypatch.setattr(CrossEncoder, "open", slowly)
    ranker = Reranker(str(folder))
    with ThreadPoolExecutor(1) as pool:
        warming = pool.submit(ranker.warm)
        assert loading.wait(30)
        answer = ranker.rerank("red", ["a red sea"])
        loaded.set()
        warming.result()
    assert isinstance(answer, Unavailable)
    assert "is being loaded" in answer.message
    assert isinstance(ranker.rerank("red", ["a red sea"]), list)


def test_one_that_is_mended_is_loaded_after_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:100])
    ranker = Reranker(str(folder))
    ranker.warm()
    (folder / "model.safetensors").write_bytes(weights)
    assert isinstance(ranker.rerank("red", ["a red sea"]), Unavailable), "it is not tried at once"
    now = reranker.time.monotonic() + reranker.RETRY_S
    monkeypatch.setattr(reranker.time, "monotonic", lambda: now)
    assert isinstance(ranker.rerank("red", ["a red sea"]), list)


def test_one_that_runs_out_of_memory_is_told_and_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = Reranker(str(folder))

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(CrossEncoder, "scores", fail)
        answer = ranker.rerank("red", ["a red sea"])
    assert isinstance(answer, Unavailable)
    assert "CUDA out of memory" in answer.message
    assert isinstance(ranker.rerank("red", ["a red sea"]), list)


def test_a_blank_text_to_order_by_is_refused_by_its_field(folder: Path) -> None:
    """As it comes where no text space is in service, which would have refused it before."""
    refusal = Reranker(str(folder)).rerank(" ", ["a sheriff rides"])
    assert isinstance(refusal, Invalid)
    assert [error.field for error in refusal.errors] == ["text"]
