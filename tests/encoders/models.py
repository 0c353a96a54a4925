"""Small real models, made on the spot, for tests that are not about a model's quality."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetModel,
)

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "of", "red", "blue", "green")
LETTERS = (*ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase))


def tiny_bert(folder: Path, *, labels: int | None = None, seed: int = 0) -> Path:
    """A BERT of random weights as transformers saves it: no modules.json, no pooling.

    labels: with that many, it is one for sequence classification.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    vocabulary = {word: row for row, word in enumerate((*WORDS, *LETTERS))}
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=labels or 2,
    )
    net = BertModel(config) if labels is None else BertForSequenceClassification(config)
    net.save_pretrained(folder)
    BertTokenizerFast(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    return folder


def tiny_resnet(folder: Path, *, seed: int = 0) -> Path:
    """A ResNet of random weights for pictures of 32 pixels, as transformers saves it."""
    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(folder)
    return folder
