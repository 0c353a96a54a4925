"""GRU4Rec: a recurrent network over the history asks for the next item.

Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks" (ICLR 2016, arXiv
1511.06939), with tied item embeddings and this project's losses in the place of its pairwise
ones: with the full softmax it is as good as they ever made it (Petrov & Macdonald, RecSys 2022).

Good at: short sessions, and memory that does not grow with the history. Bad at: long histories,
which it reads item after item. Time an epoch beside the loss: O(positions · (D·H + H²) · layers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from recsys.models.nets import Recurrent
from recsys.models.next_item import NextItemConfig
from recsys.models.ranges import Between, OneOf, Range


class Gru4recConfig(NextItemConfig):
    """Hyper-parameters of GRU4Rec."""

    kind: ClassVar[str] = "gru4rec"
    ranges: ClassVar[Mapping[str, Range]] = {
        **NextItemConfig.ranges,
        "cell": OneOf(("gru", "lstm")),
        "hidden": OneOf((64, 128, 256, 512)),
        "layers": Between(1, 3),
    }

    cell: Literal["gru", "lstm"] = "gru"
    """The recurrent cell."""

    hidden: int = Field(128, ge=1)
    """Length of the state, H."""

    layers: int = Field(1, ge=1)
    """Recurrent layers, one upon the other."""

    def network(self, n_items: int) -> Recurrent:
        return Recurrent(
            n_items,
            dim=self.dim,
            cell=self.cell,
            hidden=self.hidden,
            layers=self.layers,
            dropout=self.dropout,
        )
