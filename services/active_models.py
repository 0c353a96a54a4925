"""The models in service: the registry's active bundles as one Recommender, replaced whole.

What is in service follows the registry's pointers. Requests under way keep the Recommender that
they began with; the next ones get the new one, which has answered a query by then. A bundle that
is refused changes nothing but the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from infra.errors import RecsysError
from recsys.bundle import Bundle, BundleRefused
from recsys.registry import Registry
from services.recommender import Query, Recommender
from services.schemas import ModelInfo, ModelsReply, RecommendRequest

logger = logging.getLogger(__name__)

DEFAULT_METRIC = "ndcg@10"
"""Unless one is named, the model that measured best by this is the default."""


class NoModel(RecsysError):
    """No version of any model is active."""


class ActiveModels:
    """Opens what is active in a registry, and follows it."""

    def __init__(self, registry: Registry, default: str | None = None) -> None:
        """default: the model that answers requests that name none; the best one if it is None or,
        with a warning, not in service.

        Raises NoModel, or BundleRefused if none of the active bundles verifies.
        """
        self._registry = registry
        self._default = default
        self._active: dict[str, str] = {}
        self._refused: list[BundleRefused] = []
        self.recommender: Recommender
        if not self.refresh():
            if self._refused:
                raise self._refused[0]
            names = registry.names()
            raise NoModel(
                f"no model of {registry.root} is active: choose one with `recsys models activate`"
                if names
                else f"there is no model in {registry.root}: fit one with `recsys train`"
            )

    def refresh(self) -> bool:
        """Bring into service what has become active since, and say whether anything did.

        A bundle that is refused is logged once; the version in service stays.
        """
        active = _active(self._registry)
        if active == self._active:
            return False
        before: Mapping[str, Bundle] = self.recommender.bundles if self._active else {}
        self._active = active
        bundles: dict[str, Bundle] = {}
        for name, version in active.items():
            if name in before and before[name].version == version:
                bundles[name] = before[name]
                continue
            try:
                bundles[name] = self._registry.open(f"{name}@{version}")
            except BundleRefused as error:
                self._refused.append(error)
                logger.error("%s", error)
                if name in before:
                    bundles[name] = before[name]
        if not bundles or bundles == before:
            return False
        recommender = Recommender(bundles, self._default_of(bundles))
        for name in bundles:
            recommender.recommend([Query(RecommendRequest(model=name), ())])
        self.recommender = recommender
        return True

    def describe(self) -> ModelsReply:
        """What is in service, for a reader."""
        recommender = self.recommender
        return ModelsReply(
            models=[
                ModelInfo(
                    name=name,
                    kind=bundle.manifest.kind,
                    version=bundle.version,
                    versions=self._registry.versions(name),
                    default=name == recommender.default,
                    created=bundle.manifest.created,
                    n_items=len(bundle.items),
                    metrics=[report.to_dict() for report in bundle.manifest.metrics],
                    index=bundle.manifest.index,
                )
                for name, bundle in recommender.bundles.items()
            ]
        )

    def _default_of(self, bundles: Mapping[str, Bundle]) -> str:
        if self._default is not None and self._default in bundles:
            return self._default
        best = max(bundles, key=lambda name: _measured(bundles[name]))
        if self._default is not None:
            logger.warning(
                "the default model %r is not in service; %r answers in its place",
                *(self._default, best),
            )
        return best


def _active(registry: Registry) -> dict[str, str]:
    """The active version of each name that has one."""
    found = {name: registry.active(name) for name in registry.names()}
    return {name: version for name, version in found.items() if version is not None}


def _measured(bundle: Bundle) -> float:
    reports = bundle.manifest.metrics
    values = [r.metrics[DEFAULT_METRIC].value for r in reports if DEFAULT_METRIC in r.metrics]
    return max(values, default=-1.0)
