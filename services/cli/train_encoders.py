"""`recsys train image-encoder` and `cross-encoder`: what is trained with options of its own."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from services.cli import train_cross_encoder, train_image

ENCODERS = {module.NAME: module.command for module in (train_image, train_cross_encoder)}


class TrainCommand(TyperCommand):
    """`recsys train`, where an encoder in place of a model's kind takes options of its own."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        if not args or args[0] not in ENCODERS:
            return super().make_context(info_name, args, parent, **extra)
        alone = typer.Typer(rich_markup_mode="rich", add_completion=False)
        alone.command()(ENCODERS[args[0]])
        own = typer.main.get_command(alone)
        return own.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
