"""The cross-encoder: what it loads, what it scores, and how a catalogue trains one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from encoders.checkpoint import NoModel, find
from encoders.cross_encoder import BadQuery, CrossEncoder
from encoders.pseudo_queries import PseudoQueries, misspelt, nearest
from encoders.text import TextEncoder
from encoders.text_input import DEFAULT_TEXT_MODEL
from encoders.train_cross_encoder import TRAINING, CrossEncoderTraining, train_cross_encoder
from infra.errors import RecsysError
from tests.encoders.models import tiny_bert

TEXTS = ("red", "a blue sea", "green " * 40, "the end of the road", "öl")

FILMS = (
    "The Silence of the Lambs. Crime, Horror",
    "Toy Story. Animation, Children",
    "Chicken Run. Animation, Comedy",
    "The Hunt for Red October. Action, Thriller",
    "Raging Bull. Drama",
    "Singing in the Rain. Comedy, Musical",
    "The Green Mile. Crime, Drama",
    "Ghost Ship. Horror",
    "Big Fish. Drama, Fantasy",
    "The Birds. Horror",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    return CrossEncoder.open(str(tiny_bert(tmp_path_factory.mktemp("models") / "one", labels=1)))


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder.open(DEFAULT_TEXT_MODEL)


def test_texts_together_are_scored_as_one_by_one(model: CrossEncoder) -> None:
    together = model.scores("a red sea", TEXTS)
    alone = [model.scores("a red sea", [text])[0] for text in TEXTS]
    np.testing.assert_allclose(together, alone, rtol=0.02, atol=1e-4)
    assert together.dtype == np.float32


def test_the_score_depends_on_the_query(model: CrossEncoder) -> None:
    assert not np.allclose(model.scores("red", TEXTS), model.scores("xyz qqq", TEXTS), atol=1e-5)


def test_a_text_that_cannot_be_read_comes_last(model: CrossEncoder) -> None:
    scores = model.scores("red", ["", "red", "x" * 2_000_000, "half \ud800"])
    assert np.isneginf(scores).tolist() == [True, False, True, True]


def test_no_texts_have_no_scores(model: CrossEncoder) -> None:
    assert model.scores("red", []).shape == (0,)


@pytest.mark.parametrize("query", ["", " ", "x" * 2_000_000, "\udc80"])
def test_a_query_that_is_none_is_refused(model: CrossEncoder, query: str) -> None:
    with pytest.raises(BadQuery, match=r"^The query "):
        model.scores(query, TEXTS)


def test_a_text_encoder_is_no_cross_encoder(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    with pytest.raises(NoModel, match=r"is no cross-encoder: .* says BertModel"):
        CrossEncoder.open(str(folder))


def test_a_classifier_of_several_classes_is_no_cross_encoder(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert", labels=3)
    with pytest.raises(NoModel, match="sorts texts into 3 classes"):
        CrossEncoder.open(str(folder))


def test_weights_cut_short_are_refused_by_name(tmp_path: Path) -> None:
    weights = tiny_bert(tmp_path / "bert", labels=1) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(NoModel, match=str(weights.parent)):
        CrossEncoder.open(str(weights.parent))


def test_a_pseudo_query_is_made_of_the_texts_words_and_of_words_near_them(
    minilm: TextEncoder,
) -> None:
    made = PseudoQueries(["a red sea", "a blue ocean"], minilm)
    rng = np.random.default_rng(0)
    words = {word for _ in range(50) for word in made.of(0, rng).split()}
    assert {"red", "sea", "ocean"} <= words
    assert made.of(0, np.random.default_rng(1)) == made.of(0, np.random.default_rng(1))


def test_a_text_without_words_makes_no_query(minilm: TextEncoder) -> None:
    assert PseudoQueries(["...", "red sea"], minilm).of(0, np.random.default_rng(0)) == ""


def test_a_misspelt_word_is_off_by_one_edit() -> None:
    rng = np.random.default_rng(0)
    made = {misspelt("lamb", rng) for _ in range(100)}
    assert {"lmab", "amb", "llamb"} <= made
    assert "lamb" not in made
    assert all(3 <= len(word) <= 5 for word in made)


@pytest.mark.parametrize("text", ["sea", "sea Sea SEA", "..."])
def test_queries_are_made_of_a_catalogue_of_one_word_or_none(
    minilm: TextEncoder, text: str
) -> None:
    made = PseudoQueries([text, text], minilm)
    queries = [made.of(0, np.random.default_rng(seed)) for seed in range(50)]
    assert all(bool(query) == (text != "...") for query in queries)
    assert text == "..." or any("sea" in query.lower() for query in queries)


@pytest.mark.parametrize("n", [0, 1])
def test_a_row_that_is_alone_has_none_near_it(n: int) -> None:
    assert nearest(np.ones((n, 4), np.float32), 5).shape == (n, 0)


def test_the_nearest_rows_are_those_of_the_largest_products() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    np.testing.assert_array_equal(nearest(vectors, 5), np.argsort(-scores, axis=1)[:, :5])


def test_training_learns_which_text_a_query_is_of(minilm: TextEncoder, tmp_path: Path) -> None:
    losses: list[float] = []
    config = CrossEncoderTraining(steps=60, queries=4, candidates=4)
    train_cross_encoder(
        tmp_path / "trained", FILMS, minilm, config, tell=lambda step, loss: losses.append(loss)
    )
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    trained = CrossEncoder.open(str(tmp_path / "trained"))
    asked = {"quiet sheep": 0, "gren mile": 6, "poultry escapes": 2, "bird horror": 9}
    found = [int(np.argmax(trained.scores(query, FILMS))) for query in asked]
    assert np.mean(np.array(found) == list(asked.values())) >= 0.5
    told = json.loads((tmp_path / "trained" / TRAINING).read_text())
    assert told["base"] == minilm.name
    assert told["config"]["steps"] == 60


def test_the_same_seed_trains_the_same_weights(tmp_path: Path) -> None:
    encoder = TextEncoder.open(str(tiny_bert(tmp_path / "bert")))
    config = CrossEncoderTraining(steps=2, queries=2, candidates=3, max_tokens=32)
    for name in ("one", "other"):
        train_cross_encoder(tmp_path / name, FILMS, encoder, config)
    one, other = (
        (find(str(tmp_path / name)).folder / "model.safetensors").read_bytes()
        for name in ("one", "other")
    )
    assert one == other


def test_too_few_texts_to_tell_apart_are_refused(minilm: TextEncoder, tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match=r"2 texts are too few .* it takes 6"):
        train_cross_encoder(tmp_path / "trained", ["red", "blue", ""], minilm)
