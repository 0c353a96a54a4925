"""`recsys train cross-encoder`: a re-ranker of searches, from the catalogue's own texts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from infra.errors import RecsysError
from services.cli.console import AsJson, out, print_json, steps
from services.cli.options import typed_as

NAME = "cross-encoder"


def command(
    data: Annotated[Path, typer.Option(help="A folder in the Dataset format.")],
    output: Annotated[
        Path, typer.Option(help="The folder to write; it must not exist yet.")
    ] = Path("cross-encoder"),
    text_model: Annotated[
        str | None,
        typer.Option(
            help="The text encoder whose BERT it begins from, by name or folder; MiniLM by default."
        ),
    ] = None,
    steps_: Annotated[
        int | None, typer.Option("--steps", help="Updates of the weights; 400 by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same weights; 0 by default.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="As torch names it; a GPU where there is one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a cross-encoder on the catalogue's own texts, without anybody's queries.

    It learns to tell the text that a made-up query was made of from those like it, and orders the
    first results of a search anew where that is asked for. The folder it writes is a BERT in the
    layout of Hugging Face's transformers, for RECSYS_RERANK_MODEL.

      recsys train cross-encoder --data ./films --output ./film-ranker
      RECSYS_RERANK_MODEL=$PWD/film-ranker recsys serve
    """
    import pyarrow.parquet as pq

    from encoders.catalog import best_device
    from encoders.item_text import item_texts
    from encoders.text import TextEncoder
    from encoders.text_input import DEFAULT_TEXT_MODEL
    from encoders.train_cross_encoder import TRAINING, CrossEncoderTraining, train_cross_encoder
    from recsys.data.dataset import ITEMS, read_info

    given = {"steps": steps_, "seed": seed}
    with typed_as(**{field: f"--{field}" for field in given}):
        config = CrossEncoderTraining.model_validate(
            {field: value for field, value in given.items() if value is not None}
        )
    if os.path.lexists(output):
        raise RecsysError(f"{output} exists already: name another folder")
    read_info(data)
    device = device or best_device()
    items = pq.read_table(data / ITEMS, columns=["title", "text", "tags"])
    with steps("Training the cross-encoder") as step:
        step(0, config.steps, f"encoding {len(items):,} texts")
        train_cross_encoder(
            output,
            item_texts(items).to_pylist(),
            TextEncoder.open(text_model or DEFAULT_TEXT_MODEL, device=device),
            config,
            device=device,
            tell=lambda n, loss: step(
                n, config.steps, f"step {n} of {config.steps}  loss {loss:.4f}"
            ),
        )
    told = json.loads((output / TRAINING).read_text(encoding="utf-8"))
    if as_json:
        print_json({"output": str(output)} | told)
        return
    out.print(
        f"{escape(str(output))} has learnt from {told['texts']:,} texts. It goes into service with "
        f"RECSYS_RERANK_MODEL={escape(str(output.absolute()))}",
        soft_wrap=True,
    )
