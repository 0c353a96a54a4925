"""A content space in service: its main index, the live items beside it, and what lies over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.content_bundle import ContentBundle, ContentManifest
from recsys.data.vocabulary import UNKNOWN
from services.filter_schemas import Filters
from services.live_catalogue import LiveCatalogue
from services.schemas import Recommendation
from services.search_schemas import SearchRequest, SpaceInfo
from services.shelf import Shelf, passing

UNLIKE = 0.5
"""How much the mean of the unlike is taken away from what is searched with (Rocchio, 1971)."""


@dataclass(frozen=True)
class SpaceEncoder:
    """The encoder of a space in service: what queries are encoded by."""

    space: str
    """`text` or `image`."""

    model: str
    """Its name, or folder."""

    fingerprint: str

    @classmethod
    def of(cls, manifest: ContentManifest) -> Self:
        return cls(manifest.space, manifest.encoder, manifest.fingerprint)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Items of one space, best first."""

    ids: list[str]
    titles: list[str]
    scores: list[float]


class ContentSpace:
    """A bundle, the live items that its encoder embedded, and what lies over both."""

    def __init__(
        self, bundle: ContentBundle, live: LiveCatalogue, main: Shelf | None = None
    ) -> None:
        self.bundle = bundle
        self.encoder = SpaceEncoder.of(bundle.manifest)
        self.main = main or Shelf(bundle.catalogue, bundle.index, bundle.items)
        self._live = live
        self._added = live.shelf(bundle.space, bundle.manifest.fingerprint)
        self._overlay = live.over(self.main.items)
        self._available = self.main.available(self._overlay)
        if self._added is not None:  # what was embedded anew is found there and not here
            self._available[self.main.known(self._added.ids.to_pylist())] = False

    def over(self, live: LiveCatalogue) -> ContentSpace:
        return ContentSpace(self.bundle, live, self.main)

    def vector(self, item_id: str) -> NDArray[np.float32] | None:
        """Float32[D], the item's newest; None where it has none, or is gone."""
        if self._live.is_gone(item_id):
            return None
        for shelf in (self._added, self.main):
            if shelf is not None and len(rows := shelf.known([item_id])):
                found: NDArray[np.float32] = shelf.index.vectors[rows[0]].copy()
                return found
        return None

    def mean(self, item_ids: Sequence[str]) -> NDArray[np.float32] | None:
        """Float32[D], the mean of the items' vectors at unit length; None where none is known."""
        vectors = [v for v in map(self.vector, item_ids) if v is not None]
        return _unit(np.mean(vectors, axis=0)) if vectors else None

    def asked(self, request: SearchRequest) -> bool:
        """Whether the request has a text or picture, as this space has them."""
        content = request.text if self.bundle.space == "text" else request.picture
        return content is not None

    def direction(
        self, request: SearchRequest, encoded: Mapping[str, NDArray[np.float32]]
    ) -> NDArray[np.float32] | None:
        """Float32[D], what the request searches this space with; None where it says nothing here.

        The mean of the text or picture and of what the results shall be like, less UNLIKE times
        the mean of what they shall not.
        encoded: the vectors of the text and picture by the encoder's fingerprint, which where
        this space is `asked` must be among them.
        """
        wanted = []
        if self.asked(request):
            wanted.append(encoded[self.encoder.fingerprint])
        like = self.mean(request.like)
        if like is not None:
            wanted.append(like)
        if not wanted:
            return None
        direction = np.mean(wanted, axis=0)
        unlike = self.mean(request.unlike)
        if unlike is not None:
            direction = direction - UNLIKE * unlike
        return _unit(direction)

    def rank(
        self,
        vector: NDArray[np.float32],
        k: int,
        filters: Filters | None,
        without: Sequence[str],
    ) -> Ranking:
        """The k items nearest to the vector that pass the filters; raises Invalid for those."""
        shelves = [self.main] if self._added is None else [self.main, self._added]
        masks = [self._available.copy()]
        if self._added is not None:
            masks.append(self._added.rules.available.copy())
        if filters is not None:
            *passed, over = passing(filters, [*(s.rules for s in shelves), self._live.rules])
            self._overlay.renew(passed[0], over)
            for mask, one in zip(masks, passed, strict=True):
                mask &= one
        ids: list[str] = []
        titles: list[str] = []
        scores: list[float] = []
        for shelf, mask in zip(shelves, masks, strict=True):
            mask[shelf.known(without)] = False
            # Without a mask an index need not look which items it may return.
            found, rows = shelf.index.search(vector[None], k, None if mask.all() else mask)
            kept = rows[0] != UNKNOWN
            scores += found[0][kept].tolist()
            ids += shelf.ids.take(rows[0][kept]).to_pylist()
            titles += shelf.titles.take(rows[0][kept]).to_pylist()
        best = sorted(range(len(ids)), key=lambda i: -scores[i])[:k]
        return Ranking(
            [ids[i] for i in best],
            [self._live.title(ids[i], titles[i]) for i in best],
            [scores[i] for i in best],
        )

    def items(self, ranking: Ranking) -> list[Recommendation]:
        return [
            Recommendation(item_id=item_id, title=title, score=score, space=self.bundle.name)
            for item_id, title, score in zip(
                ranking.ids, ranking.titles, ranking.scores, strict=True
            )
        ]

    def describe(self) -> SpaceInfo:
        manifest = self.bundle.manifest
        return SpaceInfo(
            name=self.bundle.name,
            version=self.bundle.version,
            encoder=manifest.encoder,
            fingerprint=manifest.fingerprint,
            n_items=len(self.main),
            live_items=0 if self._added is None else len(self._added),
            created=manifest.created,
            index=manifest.index,
        )


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """None where there is no direction left."""
    length = float(np.linalg.norm(vector))
    return (vector / length).astype(np.float32) if length > 1e-6 else None
