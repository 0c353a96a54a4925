"""What a worker does with items that were put in: embeds them by the encoders in service.

What has the same content hash and fingerprint as the vector that is there is not embedded again. A
result is written for the content that is still there, a few items at a time, and only then is the
message acknowledged: done twice, it is the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from encoders.item_text import item_texts
from encoders.picture import MAX_BYTES
from infra.roots import LazyRoots, Unreached, Unreadable
from recsys.content_bundle import ContentManifest
from recsys.registry import Spaces
from services.contents import content_hash
from services.embedding import encoder_of
from services.item_schemas import ItemState
from services.jobs import Encoders
from services.live_catalogue import items_table
from services.live_item import Embedding, LiveItem, LiveVector
from services.live_items import LiveItems, puts_of
from services.patience import Patience, in_batches

logger = logging.getLogger(__name__)

AT_ONCE = {"text": 256, "image": 16}
"""The most items that are read, embedded and stored together, by space."""


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
        encoders: Encoders,
        roots: LazyRoots,
    ) -> None:
        """roots: where pictures may lie."""
        self._items = items
        self._spaces = spaces
        self._encoders = encoders
        self._roots = roots

    async def answer(self, bodies: Sequence[bytes]) -> list[None]:
        """Embed the items that the messages name, as far as may be; raises what the next try may
        not meet again."""
        puts: dict[str, int] = {}
        for body in bodies:
            for item_id, put in puts_of(body).items():
                puts[item_id] = max(put, puts.get(item_id, 0))
        found = await self._items.read(list(puts))
        current = [each for each in found if each.put == puts[each.item_id]]
        manifests = await asyncio.to_thread(self._spaces.encoders)
        unreached: list[Unreached] = []
        for space, manifest in manifests.items():
            waiting = _waiting(current, space, manifest)
            for start in range(0, len(waiting), AT_ONCE[space]):
                some = waiting[start : start + AT_ONCE[space]]
                embeddings, away = await asyncio.to_thread(self._tried, space, manifest, some)
                unreached += away
                if embeddings:
                    await self._items.store(space, embeddings)
        if unreached:
            raise unreached[0]
        return [None] * len(bodies)

    async def give_up(self, body: bytes, reason: str) -> str:
        """Say of the items that a message names, and that wait, why they still do; the reason."""
        puts = puts_of(body)
        found = await self._items.read(list(puts))
        current = [each for each in found if each.put == puts[each.item_id]]
        manifests = await asyncio.to_thread(self._spaces.encoders)
        for space, manifest in manifests.items():
            waiting = _waiting(current, space, manifest)
            told = [Embedding(each.item_id, each.put, reason=reason) for each in waiting]
            await self._items.store(space, told)
        return reason

    def _tried(
        self, space: str, manifest: ContentManifest, items: Sequence[LiveItem]
    ) -> tuple[list[Embedding], list[Unreached]]:
        """What became of items that wait for this encoder, and what cannot be read for now."""
        embeddings: list[Embedding] = []
        unreached: list[Unreached] = []

        def there() -> Iterator[_Content]:
            for each in self._contents(space, items):
                if isinstance(each, Unreached):
                    unreached.append(each)
                else:
                    yield each

        patience = Patience()
        for batch in in_batches(there(), lambda each: len(each.content or b"")):
            embeddings += self._embedded(space, manifest, batch, patience)
        patience.settle()
        return embeddings, unreached

    def _embedded(
        self,
        space: str,
        manifest: ContentManifest,
        contents: Sequence[_Content],
        patience: Patience,
    ) -> list[Embedding]:
        """What became of a batch."""
        embeddings, wanted = [], []
        for each in contents:
            vector = each.item.vectors.get(space)
            if each.content is None:
                embeddings.append(
                    Embedding(
                        each.item.item_id,
                        each.item.put,
                        reason=each.reason,
                        failed_by=manifest.fingerprint,
                    )
                )
            elif vector is None or not (
                vector.fingerprint == manifest.fingerprint
                and vector.content_hash == each.content_hash
            ):
                wanted.append(each)
            else:
                embeddings.append(Embedding(each.item.item_id, each.item.put, vector=vector))
        if not wanted:
            return embeddings
        encoder = encoder_of(self._encoders, space, manifest.encoder, manifest.fingerprint)
        vectors, problems = patience.encode(encoder, [each.content for each in wanted])
        for row, each in enumerate(wanted):
            reason = problems.get(row)
            vector = LiveVector(encoder.fingerprint, each.content_hash, vectors[row])
            embeddings.append(
                Embedding(
                    each.item.item_id,
                    each.item.put,
                    vector=vector if reason is None else None,
                    reason=reason,
                    failed_by=encoder.fingerprint,
                )
            )
        return embeddings

    def _contents(self, space: str, items: Sequence[LiveItem]) -> Iterator[_Content | Unreached]:
        if space == "image":
            yield from map(self._picture, items)
            return
        table = items_table([each.item for each in items if each.item is not None])
        yield from map(_Content, items, item_texts(table).to_pylist())

    def _picture(self, item: LiveItem) -> _Content | Unreached:
        assert item.item is not None
        uri = item.item.image
        if uri is None:
            return _Content(item, None)
        try:
            return _Content(item, self._roots.read(uri, MAX_BYTES))
        except Unreadable as error:
            return _Content(item, None, error.message)
        except Unreached as error:
            return error


def _waiting(items: Sequence[LiveItem], space: str, manifest: ContentManifest) -> list[LiveItem]:
    """Those that wait for a vector of the encoder of a space."""
    fingerprint = manifest.fingerprint
    return [each for each in items if each.state_by(space, fingerprint) is ItemState.PENDING]
