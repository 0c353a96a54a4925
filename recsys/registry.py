"""Registry: the versions of each name, and a pointer to the one in service.

    <root>/<name>/v0001/…    sealed bundles, never changed
    <root>/<name>/ACTIVE     {"version": "v0002", "before": ["v0001"]}

Any number of processes may add, activate, roll back and read at once. Models, content spaces and
bridges have a root each.
"""

from __future__ import annotations

import errno
import fcntl
import json
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import RecsysError
from infra.storage import UNFINISHED, atomic_file
from recsys.bridge_bundle import BridgeBundle, BridgeManifest
from recsys.bundle import Bundle
from recsys.content_bundle import HASH, LIVE, ContentBundle, ContentManifest
from recsys.sealed_folder import SealedManifest

POINTER = "ACTIVE"
REMEMBERED = 100
"""How many steps back the pointer remembers."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"v\d{4,9}")


class RegistryError(RecsysError):
    """There is no such name or version, or nothing to go back to."""


class _Pointer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(pattern=f"^{_VERSION.pattern}$")
    before: list[str] = []


AnyBundle = TypeVar("AnyBundle")
Read = TypeVar("Read")


class Versions(ABC, Generic[AnyBundle]):
    """The bundles of one sort under one folder. A name is 1 to 64 of a-z, 0-9, _ and -."""

    noun: ClassVar[str]
    """What has a name here."""

    command: ClassVar[str]
    """The part of the command line that lists and activates them."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @staticmethod
    @abstractmethod
    def read(folder: Path) -> AnyBundle:
        """The verified bundle in the folder; raises BundleRefused."""

    def names(self) -> list[str]:
        """The names that have a version, sorted."""
        if not self.root.is_dir():
            return []
        names = (entry.name for entry in self.root.iterdir() if _NAME.fullmatch(entry.name))
        return sorted(name for name in names if self.versions(name))

    def versions(self, name: str) -> list[str]:
        """The versions of a name, oldest first; empty where the name is not known."""
        folder = self._folder(name)
        if not folder.is_dir():
            return []
        found = (e.name for e in folder.iterdir() if _VERSION.fullmatch(e.name) and e.is_dir())
        return sorted(found, key=_number)

    def path(self, name: str, version: str) -> Path:
        """The folder of a version; raises RegistryError if it is not there."""
        versions = self.versions(name)
        if version not in versions:
            has = f"it has {', '.join(versions[-10:])}" if versions else "it has none"
            raise RegistryError(
                f"there is no version {version!r} of the {self.noun} {name!r}; {has}"
            )
        return self._folder(name) / version

    def add(self, name: str, writer: Callable[[Path], SealedManifest]) -> str:
        """Add what `writer` seals in the folder that it is given, as the next version.

        The version is not activated. Raises BundleRefused if what was written does not verify;
        then, as when `writer` fails, nothing is added.
        """
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{UNFINISHED}{uuid.uuid4().hex}"
        try:
            writer(draft)
            self.read(draft)
            return self._settle(draft, name)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def active(self, name: str) -> str | None:
        """The version in service; raises RegistryError if the pointer is not readable."""
        pointer = self._pointer(name)
        return pointer.version if pointer else None

    def activate(self, name: str, version: str) -> None:
        """Put a version into service once it verifies; otherwise raise, and change nothing."""
        self.read(self.path(name, version))
        with self._lock(name):
            self.path(name, version)  # is still there
            pointer = self._pointer(name)
            if pointer is None:
                self._point(name, _Pointer(version=version))
            elif pointer.version != version:
                before = [*pointer.before, pointer.version][-REMEMBERED:]
                self._point(name, _Pointer(version=version, before=before))

    def rollback(self, name: str) -> str:
        """Put the version back into service that was before the active one, and return it.

        Called again it goes further back. Raises RegistryError where there is nothing before, or
        BundleRefused where that does not verify; then nothing changes.
        """
        with self._lock(name):
            pointer = self._pointer(name)
            if pointer is None:
                raise RegistryError(f"no version of the {self.noun} {name!r} was ever active")
            if not pointer.before:
                raise RegistryError(
                    f"there is nothing to roll back to: no version of {name!r} was active before "
                    f"{pointer.version}; choose one with "
                    f"`recsys {self.command} activate {name} VERSION`"
                )
            *before, version = pointer.before
            self.read(self.path(name, version))
            self._point(name, _Pointer(version=version, before=before))
        return version

    def activated(self, name: str) -> list[str]:
        """The versions that were in service, as far back as a rollback leads, and the one that is:
        the last."""
        pointer = self._pointer(name)
        return [] if pointer is None else [*pointer.before, pointer.version]

    def prune(self, name: str, keep: int) -> list[str]:
        """Delete the versions of a name but the newest `keep`, the active one, and those that so
        many steps back lead to; returns them.

        Who has one open goes on with it: its files are mapped or read, and stay until then.
        Raises ValueError if keep is less than 1.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        with self._lock(name):
            pointer = self._pointer(name)
            steps = [] if pointer is None else [*pointer.before[-keep:], pointer.version]
            versions = self.versions(name)
            kept = {*versions[-keep:], *steps}
            gone = [version for version in versions if version not in kept]
            if pointer is not None and gone:
                before = [version for version in pointer.before if version in kept]
                self._point(name, _Pointer(version=pointer.version, before=before))
            for version in gone:  # at once, so that nobody sees a half of it
                draft = self._folder(name) / f"{UNFINISHED}{uuid.uuid4().hex}"
                shutil.rmtree((self._folder(name) / version).rename(draft))
        return gone

    def open(self, reference: str) -> AnyBundle:
        """The verified bundle of NAME@VERSION, or of NAME's active version."""
        name, _, version = reference.partition("@")
        return self.read(self.path(name, version)) if version else self.open_active(name)

    def open_active(self, name: str) -> AnyBundle:
        """The verified bundle in service; raises RegistryError where none is."""
        bundle = self._of_active(name, self.read)
        if bundle is None:
            versions = self.versions(name)
            if not versions:
                known = ", ".join(self.names()) or "none yet"
                raise RegistryError(f"there is no {self.noun} {name!r}; the registry has {known}")
            raise RegistryError(
                f"no version of {name!r} is active; choose one with "
                f"`recsys {self.command} activate {name} {versions[-1]}`"
            )
        return bundle

    def _of_active(self, name: str, read: Callable[[Path], Read]) -> Read | None:
        """What is read of the version in service, None where none is; of the next one where that
        went into service meanwhile and this one was deleted."""
        while (version := self.active(name)) is not None:
            try:
                return read(self.path(name, version))
            except Exception:
                if self.active(name) == version:
                    raise
        return None

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise RegistryError(
                f"{name!r} cannot name a {self.noun}; use 1 to 64 of a-z, 0-9, _ and -, beginning "
                "with a letter or digit"
            )
        return self.root / name

    def _settle(self, draft: Path, name: str) -> str:
        """Rename the draft to the first version that no other process takes meanwhile."""
        number = max((_number(v) for v in self.versions(name)), default=0) + 1
        while True:
            version = f"v{number:04d}"
            try:
                draft.rename(self._folder(name) / version)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                number += 1
            else:
                return version

    def _pointer(self, name: str) -> _Pointer | None:
        path = self._folder(name) / POINTER
        try:
            return _Pointer.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise RegistryError(
                f"{path} does not say which version is active ({reason}); remove it and choose "
                f"one with `recsys {self.command} activate {name} VERSION`"
            ) from None

    def _point(self, name: str, pointer: _Pointer) -> None:
        with atomic_file(self._folder(name) / POINTER) as file:
            file.write(json.dumps(pointer.model_dump()).encode())

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """One process at a time moves a pointer; the lock ends with the process."""
        folder = self._folder(name)
        if not folder.is_dir():
            raise RegistryError(f"there is no {self.noun} {name!r}")
        with (folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Registry(Versions[Bundle]):
    """The models: a name is what requests ask for."""

    noun, command = "model", "models"

    @staticmethod
    def read(folder: Path) -> Bundle:
        return Bundle.open(folder)


class Spaces(Versions[ContentBundle]):
    """The content spaces: a name is that of the space, `text` or `image`."""

    noun, command = "space", "spaces"

    @staticmethod
    def read(folder: Path) -> ContentBundle:
        return ContentBundle.open(folder)

    def manifest(self, name: str, version: str) -> ContentManifest:
        """What a version says of itself, without a look at its files."""
        return ContentBundle.manifest_of(self.path(name, version))

    def encoders(self) -> dict[str, ContentManifest]:
        """What each active version says of itself, by name: above all, of its encoder."""
        found = {name: self._of_active(name, ContentBundle.manifest_of) for name in self.names()}
        return {name: manifest for name, manifest in found.items() if manifest is not None}

    def lost(self, name: str, before: str, after: str) -> list[str]:
        """The items put in over the API that one version has, and another has not, or has with
        another content."""
        held = set(_live(self.open(f"{name}@{after}")))
        return [each[0] for each in _live(self.open(f"{name}@{before}")) if each not in held]


class Bridges(Versions[BridgeBundle]):
    """The bridges from content to models: a name is that of the model."""

    noun, command = "bridge", "bridge"

    @staticmethod
    def read(folder: Path) -> BridgeBundle:
        return BridgeBundle.open(folder)

    def manifest(self, name: str, version: str) -> BridgeManifest:
        """What a version says of itself, without a look at its weights."""
        return BridgeBundle.manifest_of(self.path(name, version))


def _live(bundle: ContentBundle) -> list[tuple[str, bytes]]:
    """The items that were put in over the API, with the hashes of their contents."""
    live = bundle.catalogue.filter(bundle.catalogue[LIVE])
    return list(zip(live["item_id"].to_pylist(), live[HASH].to_pylist(), strict=True))


def _number(version: str) -> int:
    return int(version[1:])
