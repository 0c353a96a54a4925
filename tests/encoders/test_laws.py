"""The laws of every encoder, each on real networks: small ones of random weights, and MiniLM."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoders.catalog import UnknownSpace, fingerprint_of, open_encoder
from encoders.encoder import Encoder
from encoders.text_input import DEFAULT_TEXT_MODEL
from tests.encoders.models import tiny_bert, tiny_resnet

ROUNDING = 0.02
"""How far a component of a unit vector may be off in half precision."""


@dataclass(frozen=True)
class Case:
    """An encoder, and contents of its sort: good ones, all different, and bad ones."""

    encoder: Encoder[Any]
    good: Sequence[Any]
    bad: Sequence[Any]


def picture(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8))
    file = io.BytesIO()
    small.resize((40 + 7 * seed, 48)).save(file, "PNG")
    return file.getvalue()


TEXTS = ("a red sea", "of blue green", "q", "the end " * 9, "a long word: incomprehensible", "öl")


def texts(model: str) -> Case:
    bad = ("", " \n", "x" * 2_000_000, "half \ud800", None)
    return Case(open_encoder("text", model, device="cpu"), TEXTS, bad)


def pictures(model: str) -> Case:
    pngs = [picture(seed) for seed in range(5)]
    bad = (b"", b"no picture", pngs[0][:50])
    return Case(open_encoder("image", model, device="cpu"), pngs, bad)


CASES: dict[str, Callable[[Path], Case]] = {
    "minilm": lambda folder: texts(DEFAULT_TEXT_MODEL),
    "bert": lambda folder: texts(str(tiny_bert(folder / "bert"))),
    "resnet": lambda folder: pictures(str(tiny_resnet(folder / "resnet"))),
}

MADE: dict[str, tuple[str, Callable[..., Path]]] = {
    "bert": ("text", tiny_bert),
    "resnet": ("image", tiny_resnet),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    made: Case = CASES[request.param](tmp_path_factory.mktemp(request.param))
    return made


def test_a_batch_encodes_as_its_contents_one_by_one(case: Case) -> None:
    batch = case.encoder.encode(case.good).vectors
    singles = np.concatenate([case.encoder.encode([content]).vectors for content in case.good])
    np.testing.assert_allclose(batch, singles, atol=ROUNDING)
    assert (np.sum(batch * singles, axis=1) > 0.9995).all()


def test_vectors_have_unit_length_and_those_of_failures_are_zero(case: Case) -> None:
    encoded = case.encoder.encode([*case.bad, *case.good])
    lengths = np.linalg.norm(encoded.vectors, axis=1)
    np.testing.assert_allclose(lengths[len(case.bad) :], 1, atol=1e-5)
    assert not encoded.vectors[: len(case.bad)].any()
    assert encoded.vectors.dtype == np.float32
    assert encoded.vectors.shape[1] == case.encoder.dim


def test_a_failure_tells_its_reason_and_takes_nothing_with_it(case: Case) -> None:
    mixed = [content for pair in zip(case.bad, case.good, strict=False) for content in pair]
    encoded = case.encoder.encode(mixed)
    assert sorted(encoded.failures) == list(range(0, len(mixed), 2))
    assert all(len(reason) > 10 for reason in encoded.failures.values())
    alone = case.encoder.encode(mixed[1::2]).vectors
    np.testing.assert_allclose(encoded.vectors[1::2], alone, atol=ROUNDING)


def test_different_contents_have_different_vectors(case: Case) -> None:
    vectors = case.encoder.encode(case.good).vectors
    alike = vectors @ vectors.T - np.eye(len(vectors))
    assert alike.max() < 0.9999


def test_nothing_encodes_as_nothing(case: Case) -> None:
    encoded = case.encoder.encode([])
    assert encoded.vectors.shape == (0, case.encoder.dim)
    assert not encoded.failures


def test_the_fingerprint_is_known_without_the_encoder(case: Case) -> None:
    assert fingerprint_of(case.encoder.space, case.encoder.name) == case.encoder.fingerprint


@pytest.mark.parametrize("kind", MADE)
def test_the_fingerprint_is_that_of_the_weights_wherever_they_lie(
    kind: str, tmp_path: Path
) -> None:
    space, make = MADE[kind]
    here = make(tmp_path / "here")
    there = shutil.copytree(here, tmp_path / "else" / "there")
    (there / "README.md").write_text("Moved.")
    assert fingerprint_of(space, str(there)) == fingerprint_of(space, str(here))


@pytest.mark.parametrize("kind", MADE)
def test_other_weights_have_another_fingerprint(kind: str, tmp_path: Path) -> None:
    space, make = MADE[kind]
    one, other = make(tmp_path / "one", seed=1), make(tmp_path / "other", seed=2)
    assert fingerprint_of(space, str(one)) != fingerprint_of(space, str(other))


def test_a_space_that_no_encoder_makes_is_refused() -> None:
    with pytest.raises(UnknownSpace, match="'smell'; they are text, image"):
        open_encoder("smell", DEFAULT_TEXT_MODEL)
    with pytest.raises(UnknownSpace, match="'smell'"):
        fingerprint_of("smell", DEFAULT_TEXT_MODEL)
