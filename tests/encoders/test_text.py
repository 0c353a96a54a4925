"""The text encoder: what it loads, from where, and what it does to texts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from encoders.batches import ROOM, by_length
from encoders.checkpoint import MINILM, NoModel, find
from encoders.text import TextEncoder
from encoders.text_input import CHARACTERS_PER_TOKEN, DEFAULT_TEXT_MODEL, MAX_TEXT, fault, seen
from tests.encoders.models import tiny_bert, tiny_resnet

FILMS = (
    "Toy Story (1995). Adventure, Animation, Children",
    "A banker convicted of murder digs his way out of prison behind a poster.",
    "Shark!",
    "Two detectives hunt a murderer. " * 40,
)


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder.open(DEFAULT_TEXT_MODEL)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder.open(str(tiny_bert(tmp_path_factory.mktemp("models") / "bert")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_format_gives_what_sentence_transformers_gives(
    minilm: TextEncoder, dtype: torch.dtype
) -> None:
    model = SentenceTransformer(
        str(find(DEFAULT_TEXT_MODEL).folder), device="cpu", model_kwargs={"dtype": dtype}
    )
    theirs = model.encode(list(FILMS)).astype(np.float32)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    ours = minilm.encode(FILMS).vectors
    assert (np.sum(ours * theirs, axis=1) > 0.9998).all()


def test_what_means_the_same_is_near_in_the_default_space(minilm: TextEncoder) -> None:
    vectors = minilm.encode(["a great white fish bites swimmers", *FILMS]).vectors
    assert np.argmax(vectors[1:] @ vectors[0]) == FILMS.index("Shark!")


def test_of_a_bert_without_pooling_the_tokens_are_averaged(bert: TextEncoder) -> None:
    text = "the red sea"
    folder = find(bert.name).folder
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.inference_mode():
        state = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0]
    mean = state.mean(dim=0).numpy()
    np.testing.assert_allclose(
        bert.encode([text]).vectors[0], mean / np.linalg.norm(mean), atol=0.02
    )


def test_of_a_text_longer_than_the_window_the_beginning_counts(bert: TextEncoder) -> None:
    long = "red " * 100
    vectors = bert.encode([long + "blue", long + "green", "blue " + long]).vectors
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "The text is empty."),
        ("\t \n", "The text is empty."),
        ("x" * (MAX_TEXT + 1), "The text has 1,048,577 characters; 1,048,576 bytes are allowed."),
        ("é" * MAX_TEXT, "The text has 2,097,152 bytes; 1,048,576 are allowed."),
        ("ab\udc80", "The text has half a character, a lone surrogate, at place 2."),
        (None, "The text is none: it is of type NoneType."),
        (b"bytes", "The text is none: it is of type bytes."),
    ],
)
def test_what_cannot_be_encoded_says_why(content: object, reason: str) -> None:
    assert fault(content) == reason


def test_the_longest_text_allowed_is_encoded(minilm: TextEncoder) -> None:
    assert not minilm.encode(["shark " * (MAX_TEXT // 6)]).failures


def test_a_text_of_100_megabytes_is_refused_before_anything_reads_it(minilm: TextEncoder) -> None:
    huge = "x" * 100_000_000
    started = time.perf_counter()
    encoded = minilm.encode([huge])
    assert time.perf_counter() - started < 0.5
    assert "100,000,000 characters" in encoded.failures[0]


def test_the_tokenizer_sees_no_more_than_the_window_can_hold() -> None:
    assert seen("  ab ", None) == "ab"
    assert len(seen("x" * 10_000, 8)) == 8 * CHARACTERS_PER_TOKEN


@given(st.lists(st.integers(1, 5000), max_size=50))
def test_batches_hold_every_text_once_and_no_more_than_there_is_room_for(
    tokens: list[int],
) -> None:
    lengths = np.array(tokens, np.int64)
    batches = list(by_length(lengths, torch.device("cpu")))
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(tokens)))
    assert all(
        len(batch) == 1 or lengths[batch].max() * len(batch) <= ROOM["cpu"] for batch in batches
    )


CHILD = """
import json, sys
from encoders.text_input import fingerprint_of
fingerprint, torch_free = fingerprint_of(sys.argv[1]), "torch" not in sys.modules
from encoders.text import TextEncoder
vector = TextEncoder.open(sys.argv[1]).encode(["red"]).vectors[0]
print(json.dumps([fingerprint, torch_free, vector.tolist()]))
"""


@pytest.mark.parametrize("kind", ["folder", "default"])
def test_what_is_on_this_machine_is_loaded_without_a_network(
    kind: str, bert: TextEncoder, minilm: TextEncoder, tmp_path: Path
) -> None:
    """And in another process it has the same fingerprint and vectors; to know the fingerprint
    takes no torch."""
    encoder = bert if kind == "folder" else minilm
    with socket.create_server(("127.0.0.1", 0)) as hub:
        endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
        told = subprocess.run(
            [sys.executable, "-c", CHILD, encoder.name],
            env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)},
            check=True,
            capture_output=True,
            timeout=300,
        )
        hub.setblocking(False)
        with pytest.raises(BlockingIOError):
            hub.accept()
    fingerprint, torch_free, vector = json.loads(told.stdout)
    assert fingerprint == encoder.fingerprint
    assert torch_free
    np.testing.assert_allclose(vector, encoder.encode(["red"]).vectors[0], atol=1e-6)


def test_loading_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny_bert(tmp_path / "bert")
    capfd.readouterr()
    TextEncoder.open(str(folder))
    assert capfd.readouterr() == ("", "")


def test_the_default_is_pinned_whether_its_revision_is_named_or_not() -> None:
    assert find(MINILM) == find(DEFAULT_TEXT_MODEL)


def test_the_fingerprint_changes_with_the_tokenizer(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    before = find(str(folder)).fingerprint()
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text() + " ")
    assert find(str(folder)).fingerprint() != before


def test_the_fingerprint_leaves_out_weights_that_are_not_loaded(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    before = find(str(folder)).fingerprint()
    (folder / "pytorch_model.bin").write_bytes(b"the same in another format")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    assert find(str(folder)).fingerprint() == before


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("./nowhere/at all", "there is no folder './nowhere/at all'"),
        ("recsys-tests/there-is-no-such-model", "Give the path of a folder with a model"),
    ],
)
def test_a_model_that_is_nowhere_is_told_with_what_to_do(model: str, reason: str) -> None:
    with pytest.raises(NoModel, match=reason):
        find(model)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoModel, match=r"is no model: it holds no config\.json"):
        TextEncoder.open(str(tmp_path))


@pytest.mark.parametrize("broken", ["weights", "config", "modules", "image"])
def test_a_folder_that_cannot_be_loaded_is_refused_by_name(broken: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if broken == "image":
        tiny_resnet(folder)
    else:
        tiny_bert(folder)
    if broken == "weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif broken == "config":
        (folder / "config.json").write_text("{")
    elif broken == "modules":
        (folder / "modules.json").write_text("[1]")
    with pytest.raises(NoModel, match=str(folder)):
        TextEncoder.open(str(folder))
