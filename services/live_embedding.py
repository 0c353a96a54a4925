"""What a worker does with items that were put in: embeds them by the encoders in service.

What has the same content hash and fingerprint as the vector that is there is not embedded again. A
result is written for the content that is still there, a few items at a time, and only then is the
message acknowledged: done twice, it is the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from encoders.item_text import item_texts
from infra.errors import RecsysError
from infra.roots import Roots, Unreadable
from recsys.content_bundle import ContentManifest
from recsys.registry import Registry, Spaces
from services.folding import fold_live
from services.item_schemas import ItemState
from services.jobs import Encoders
from services.live_catalogue import items_table
from services.live_items import Embedding, LiveItem, LiveItems, LiveVector, puts_of
from services.patience import PICTURES_AT_ONCE, patiently_encoded
from services.query_encoder import encoder_of
from services.spool import MAX_PICTURE, content_hash

logger = logging.getLogger(__name__)

AT_ONCE = {"text": 256, "image": PICTURES_AT_ONCE}
"""The most items that are read, embedded and stored together, by space."""

WATCH_S = 2.0
"""Seconds between two looks whether another encoder is in service, or there is much to fold."""

FOLD_AT = 5000
"""Live items, ready to be, from which on they are folded into the main indexes."""

FOLD_PAUSE_S = 60.0
"""Seconds between two looks whether so many are."""


@dataclass(frozen=True)
class _Content:
    """What an item has to be embedded in a space."""

    item: LiveItem
    content: str | bytes | None
    """None where it has none of this sort."""

    reason: str | None = None
    """Why it cannot be read."""

    @property
    def content_hash(self) -> bytes:
        content = self.content.encode() if isinstance(self.content, str) else self.content
        return content_hash(content or b"")


class LiveEmbedder:
    """Embeds what `<namespace>:jobs:items` names."""

    def __init__(
        self,
        items: LiveItems,
        spaces: Spaces,
        models: Registry,
        encoders: Encoders,
        roots: Roots,
    ) -> None:
        """models: those in service beside the spaces. roots: where pictures may lie."""
        self._items = items
        self._spaces = spaces
        self._models = models
        self._next_fold = 0.0
        self._encoders = encoders
        self._roots = roots

    async def answer(self, bodies: Sequence[bytes]) -> list[None]:
        """Embed the items that the messages name; raises what the next try may not meet again."""
        puts: dict[str, int] = {}
        for body in bodies:
            for item_id, put in puts_of(body).items():
                puts[item_id] = max(put, puts.get(item_id, 0))
        found = await self._items.read(list(puts))
        current = [
            each for each in found if each.item is not None and each.put == puts[each.item_id]
        ]
        manifests = await asyncio.to_thread(self._spaces.encoders)
        for space, manifest in manifests.items():
            for start in range(0, len(current), AT_ONCE[space]):
                some = current[start : start + AT_ONCE[space]]
                embeddings = await asyncio.to_thread(self._embedded, space, manifest, some)
                if embeddings:
                    await self._items.store(space, embeddings)
        return [None] * len(bodies)

    async def give_up(self, body: bytes, reason: str) -> None:
        """Say of the items that a message names, and that wait, why they are not embedded."""
        puts = puts_of(body)
        found = await self._items.read(list(puts))
        for space in await asyncio.to_thread(self._spaces.encoders):
            waiting = [each for each in found if each.states[space] is ItemState.PENDING]
            told = [
                Embedding(each.item_id, each.put, reason=reason) for each in waiting if each.put
            ]
            if told:
                await self._items.store(space, told)

    async def watch(self, stop: asyncio.Event) -> None:
        """Until `stop` is set, queue the live items again whenever another encoder has gone into
        service, and fold them when they are many."""
        known: Mapping[str, str] = {}
        while not stop.is_set():
            try:
                known = await self._look(known)
            except RecsysError as error:
                logger.warning("the live items cannot be looked after: %s", error)
            try:
                await asyncio.wait_for(stop.wait(), WATCH_S)
            except TimeoutError:
                continue

    async def _look(self, known: Mapping[str, str]) -> Mapping[str, str]:
        manifests = await asyncio.to_thread(self._spaces.encoders)
        now = {name: manifest.fingerprint for name, manifest in manifests.items()}
        if now != known:
            behind = [each for each in await self._items.all() if _behind(each, now)]
            await self._items.requeue(behind)
        if now and time.monotonic() >= self._next_fold:
            self._next_fold = time.monotonic() + FOLD_PAUSE_S
            await self._fold_many(now)
        return now

    async def _fold_many(self, fingerprints: Mapping[str, str]) -> None:
        if await self._items.count() < FOLD_AT:
            return
        entries = await self._items.all()
        ready = [each for each in entries if each.vectors and not _behind(each, fingerprints)]
        if len(ready) >= FOLD_AT:
            folded = await fold_live(self._items, self._spaces, self._models)
            logger.info("folded %d live items", folded.folded)

    def _embedded(
        self, space: str, manifest: ContentManifest, items: Sequence[LiveItem]
    ) -> list[Embedding]:
        """What became of the items that have not been embedded by this encoder as they are."""
        contents = self._texts(items) if space == "text" else self._pictures(items)
        embeddings, wanted = [], []
        for each in contents:
            vector = each.item.vectors.get(space)
            if each.content is None:
                embeddings.append(Embedding(each.item.item_id, each.item.put, reason=each.reason))
            elif vector is None or not (
                vector.fingerprint == manifest.fingerprint
                and vector.content_hash == each.content_hash
            ):
                wanted.append(each)
            elif each.item.states[space] is not ItemState.READY:
                embeddings.append(Embedding(each.item.item_id, each.item.put, vector=vector))
        if not wanted:
            return embeddings
        encoder = encoder_of(self._encoders, manifest)
        vectors, problems = patiently_encoded(encoder, [each.content for each in wanted])
        for row, each in enumerate(wanted):
            reason = problems.get(row)
            vector = LiveVector(encoder.fingerprint, each.content_hash, vectors[row])
            embeddings.append(
                Embedding(
                    each.item.item_id,
                    each.item.put,
                    vector=vector if reason is None else None,
                    reason=reason,
                )
            )
        return embeddings

    def _texts(self, items: Sequence[LiveItem]) -> list[_Content]:
        table = items_table([each.item for each in items if each.item is not None])
        texts = item_texts(table).to_pylist()
        return [_Content(item, text) for item, text in zip(items, texts, strict=True)]

    def _pictures(self, items: Sequence[LiveItem]) -> list[_Content]:
        return [self._picture(each) for each in items]

    def _picture(self, item: LiveItem) -> _Content:
        assert item.item is not None
        uri = item.item.image
        if uri is None:
            return _Content(item, None)
        try:
            return _Content(item, self._roots.read(uri, MAX_PICTURE))
        except Unreadable as error:
            return _Content(item, None, error.message)


def _behind(item: LiveItem, fingerprints: Mapping[str, str]) -> bool:
    """Whether a live item waits for a vector of an encoder in service."""
    if item.item is None:
        return False
    for space, fingerprint in fingerprints.items():
        vector = item.vectors.get(space)
        if item.states[space] is ItemState.PENDING:
            return True
        if vector is not None and vector.fingerprint != fingerprint:
            return True
    return False
