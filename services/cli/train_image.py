"""`recsys train image-encoder`: an image encoder of the catalogue's own pictures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from infra.errors import RecsysError
from services.cli.console import Advance, AsJson, Step, bar, err, out, print_json, steps
from services.cli.options import typed_as

if TYPE_CHECKING:
    from transformers import ResNetModel

    from encoders.training import EpochLoss

NAME = "image-encoder"
TITLE = "Training the image encoder"

_SHOWN = 5
"""Pictures left out whose reasons are printed."""


def command(
    data: Annotated[Path, typer.Option(help="A folder in the Dataset format, with pictures.")],
    output: Annotated[
        Path, typer.Option(help="The folder to write; it must not exist yet.")
    ] = Path("image-encoder"),
    size: Annotated[
        int | None,
        typer.Option(help="Layers of the ResNet: 18, 34, 50 or 101; 18 by default."),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Begin from this model instead of from nothing: a folder, or a name such as "
            "microsoft/resnet-18.",
        ),
    ] = None,
    pixels: Annotated[
        int | None,
        typer.Option(help="Side of the pictures that the encoder sees; 64 by default."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the pictures; 60 by default.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Pictures that are told apart in a step; 32 by default.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Ray Train workers; 0 trains in this process.")
    ] = 1,
    gpu: Annotated[
        bool | None,
        typer.Option(
            "--gpu/--no-gpu",
            help="A GPU for each worker (NCCL); by default where there are as many.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same encoder; 0 by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train an image encoder on the catalogue's own pictures, without labels (SimCLR).

    For catalogues unlike photographs, and where no model can be fetched. The folder it writes is a
    ResNet in the layout of Hugging Face's transformers, for `recsys embed --image-model`.

      recsys train image-encoder --data ./films --output ./poster-encoder
      recsys train image-encoder --data ./shop --size 50 --pixels 128 --workers 4
    """
    from encoders.contrastive import ContrastiveConfig
    from encoders.picture_file import write_pictures
    from encoders.training import train
    from infra.settings import load_settings
    from recsys.data.dataset import read_info
    from recsys.training.room import cores, room
    from services.cluster import cluster

    given = {"pixels": pixels, "epochs": epochs, "batch": batch, "seed": seed}
    with typed_as(**{field: f"--{field}" for field in given}):
        config = ContrastiveConfig.model_validate(
            {field: value for field, value in given.items() if value is not None}
        )
    if os.path.lexists(output):
        raise RecsysError(f"{output} exists already: name another folder")
    net = _net(from_, size, config.seed)
    info = read_info(data)
    runs = load_settings().state_dir / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="image-encoder-", dir=runs) as run_dir:
        pictures, side = Path(run_dir, "pictures"), config.pixels * 3 // 2  # parts are magnified
        items: list[str] = []
        with bar("Reading pictures") as told:
            failures = write_pictures(pictures, _sources(data, items, told), side)
        _tell(items, failures)
        with nullcontext() if workers == 0 else cluster(quiet=True), steps(TITLE) as step:
            trained = train(
                config,
                net,
                pictures,
                side,
                run_dir=Path(run_dir),
                workers=workers,
                cores=cores(workers),
                gpu=room(workers, gpu),
                on_epoch=_told(step),
            )
    about = {
        "data": str(data),
        "data_fingerprint": info.fingerprint,
        "pictures_left_out": len(failures),
        "from": from_,
    }
    trained.save(output, about)
    if as_json:
        print_json(
            {
                "output": str(output),
                "pictures": trained.pictures,
                "left_out": {items[place]: why for place, why in failures.items()},
                "loss": trained.progress.losses,
                "core_s": trained.progress.core_seconds,
                "wall_s": trained.wall_seconds,
            }
        )
        return
    out.print(
        f"{escape(str(output))} has learnt from {trained.pictures:,} pictures in "
        f"{trained.wall_seconds:,.0f} s."
    )


def _net(model: str | None, size: int | None, seed: int) -> ResNetModel:
    """What the training begins from: a net with random weights, or another model's."""
    import torch

    from encoders.checkpoint import CONFIG
    from encoders.image import image_checkpoint
    from encoders.resnet import SIZES, load_resnet, new_resnet

    if model is not None:
        if size is not None:
            raise typer.BadParameter("--size: the model that --from names has a size already")
        checkpoint, weights = image_checkpoint(model)
        return load_resnet(checkpoint.folder / CONFIG, weights)
    if size is not None and size not in SIZES:
        raise typer.BadParameter(f"--size: there are {', '.join(map(str, SIZES))}")
    torch.manual_seed(seed)
    return new_resnet(size or 18)


def _sources(data: Path, items: list[str], told: Advance) -> Iterator[Callable[[], bytes]]:
    """What reads each picture of the Dataset; their items are added to the list meanwhile."""
    import pyarrow.parquet as pq

    from encoders.picture import MAX_BYTES
    from infra.roots import Roots
    from recsys.data.dataset import ITEMS

    roots = Roots([data])
    with pq.ParquetFile(data / ITEMS) as file:
        done, total = 0, file.metadata.num_rows
        for rows in file.iter_batches(columns=["item_id", "image"]):
            there = rows.filter(rows["image"].is_valid())
            uris = there["image"].to_pylist()
            items += there["item_id"].to_pylist()
            for uri in uris:
                yield partial(roots.read, uri, MAX_BYTES)
            done += len(rows)
            told(done, total)


def _tell(items: Sequence[str], failures: Mapping[int, str]) -> None:
    """Which pictures are left out, and why; raises RecsysError if none is left."""
    if len(items) == len(failures):
        raise RecsysError(
            "no item of the Dataset has a picture that can be read"
            + "".join(f": {items[place]}: {why}" for place, why in list(failures.items())[:1])
        )
    for place, why in list(failures.items())[:_SHOWN]:
        err.print(f"[yellow]left out:[/] {escape(items[place])}: {escape(why)}", soft_wrap=True)
    if len(failures) > _SHOWN:
        err.print(f"[yellow]left out:[/] {len(failures) - _SHOWN:,} more; --json names all")


def _told(step: Step) -> Callable[[EpochLoss], None]:
    def on_epoch(report: EpochLoss) -> None:
        done, total = report.epoch + 1, report.epochs
        step(done, total, f"epoch {done} of {total}  loss {report.loss:.4f}")

    return on_epoch
