"""What is active in a registry, opened and followed, each name by itself.

A version that cannot be opened changes nothing but the log: what is in service of its name stays,
and it is tried again, unless it is a bundle that was refused, which is tried again only after
another version was active.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from infra.errors import RecsysError
from recsys.registry import Versions
from recsys.sealed_folder import BundleRefused

logger = logging.getLogger(__name__)


class _Versioned(Protocol):
    @property
    def version(self) -> str: ...


Opened = TypeVar("Opened", bound=_Versioned)


class ActiveVersions(Generic[Opened]):
    """The active bundles of a registry, as they were at the last look."""

    def __init__(
        self,
        registry: Versions[Opened],
        check: Callable[[str, Opened], None] | None = None,
        is_ready: Callable[[str, str], bool] | None = None,
    ) -> None:
        """check: called with a name and a bundle before it goes into service; raises if it must
        not. is_ready: called with a name and a version before that is opened; whether what it
        takes beside it is there. Until then what is in service stays."""
        self.registry = registry
        self.bundles: dict[str, Opened] = {}
        self.failing: dict[str, str] = {}
        """What is wrong with each name whose active version could not be opened."""

        self._check = check
        self._is_ready = is_ready
        self._refused: dict[str, str] = {}  # why, by NAME@VERSION

    def look(self) -> list[RecsysError]:
        """Open what has become active since, and return what is wrong with what could not be."""
        self.bundles, errors = self._open(self.bundles)
        return errors

    def _open(self, before: Mapping[str, Opened]) -> tuple[dict[str, Opened], list[RecsysError]]:
        bundles: dict[str, Opened] = {}
        errors: list[RecsysError] = []
        failing: dict[str, str] = {}
        refused: dict[str, str] = {}
        for name in self.registry.names():
            bundle = before.get(name)
            try:
                version = self.registry.active(name)
                if version is None:
                    continue
                reference = f"{name}@{version}"
                if reference in self._refused:
                    refused[reference] = failing[name] = self._refused[reference]
                elif bundle is None or version != bundle.version:
                    bundle = self._opened(name, version) or bundle
            except Exception as error:  # noqa: BLE001 - whatever it is, it is of this name alone
                errors.append(self._told(name, error))
                failing[name] = str(errors[-1])
                if isinstance(error, BundleRefused):
                    refused[reference] = failing[name]
            if bundle is not None:
                bundles[name] = bundle
        self.failing, self._refused = failing, refused
        return bundles, errors

    def _opened(self, name: str, version: str) -> Opened | None:
        """What is active of a name, the version or the next one; None where it is not ready."""
        if self._is_ready is not None and not self._is_ready(name, version):
            return None
        opened = self.registry.open_active(name)
        if opened.version != version:  # went into service meanwhile
            return self._opened(name, opened.version)
        if self._check is not None:
            self._check(name, opened)
        return opened

    def _told(self, name: str, error: Exception) -> RecsysError:
        """The error for a reader, logged unless it was."""
        if isinstance(error, RecsysError):
            told = error
        else:
            told = RecsysError(f"the {self.registry.noun} {name!r} cannot be opened: {error!r}")
            told.__cause__ = error
        if self.failing.get(name) != str(told):
            logger.error("%s", told, exc_info=told.__cause__)
        return told
