"""Roots: the only places that content named by a URI is read from.

A catalogue says where its pictures lie, and whoever writes a catalogue need not be trusted: what
it names is read if it lies under a configured root, after symbolic links and `..`, and refused
otherwise. Nothing is ever fetched from an address that a URI names. A URI is

- a path: a relative one starts in the first root. It is taken as it stands, `%20` included;
- `file://` and an absolute path, percent-encoded;
- `s3://bucket/key` or `gs://bucket/key` under a root of the same scheme, which alone says the
  endpoint and the credentials; the key is taken as it stands;
- `data:[type];base64,…`, which holds the content itself.

What cannot be read for now, because a disk, a network or a store does not answer, is another error
than what is not there. No error shows the credentials of a URI.
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import pyarrow as pa
import pyarrow.fs

from infra.errors import RecsysError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")

_STORES = ("s3", "gs")

_SHOWN = 120
"""Characters of a URI that an error repeats."""

_OF_THE_FILE = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EILSEQ,
        errno.EINVAL,
        errno.ENXIO,
    )
)
"""What is wrong with a file or its name. Any other error is the machine's or the network's (EIO,
ESTALE, ETIMEDOUT, EMFILE, …) and may pass."""


class Unreadable(RecsysError):
    """Content that may not or cannot be read, however often it is tried."""

    def __init__(self, uri: str, why: str) -> None:
        super().__init__(f"{_shown(uri)} {why}")


class Unreached(RecsysError):
    """Content that cannot be read for now, which is not its own fault; it may be later."""

    def __init__(self, uri: str, why: str) -> None:
        super().__init__(f"{_shown(uri)} cannot be read for now: {why}")


class BadRoot(RecsysError):
    """A root that is no folder, or in no store that is known."""


@dataclass(frozen=True)
class _Folder:
    """A root on this machine."""

    path: Path
    """Resolved."""


@dataclass(frozen=True, eq=False)
class _Store:
    """A root in an object store."""

    uri: str
    """Without the query, and with a `/` at its end."""
    base: str
    """The same as the filesystem names it."""
    filesystem: pyarrow.fs.FileSystem
    given: str
    """With the credentials, perhaps; for nobody to see."""


class Roots:
    """Folders, here or in object stores, that content may be read from."""

    def __init__(self, roots: Sequence[Path | str]) -> None:
        """roots: folders as paths, `file://`, `s3://` or `gs://` URIs; relative URIs start in the
        first. A store's root may carry what it takes to reach it, as
        `s3://bucket/films?region=eu-west-1`. Without any root only `data:` is read.

        Raises BadRoot.
        """
        self._roots = [_root(each) for each in roots]

    def read(self, uri: str, max_bytes: int) -> bytes:
        """The whole content. Thread-safe.

        Raises Unreadable if it is not under a root, is no regular file, is not there, or has more
        than `max_bytes`; Unreached if that cannot be told for now.
        """
        scheme = _scheme(uri)
        if scheme == "data":
            return _embedded(uri, max_bytes)
        if scheme in _STORES:
            return self._read_object(uri, uri, max_bytes)
        if scheme == "file":
            return self._read_file(uri, _path_of(uri), max_bytes)
        if scheme is not None:
            raise Unreadable(
                uri,
                f"is not read: nothing is fetched over {scheme}:. Put the file under one of the "
                "folders that content is read from, and name it by its path",
            )
        first = self._roots[0] if self._roots else None
        if isinstance(first, _Store) and not uri.startswith("/"):
            return self._read_object(uri, first.uri + uri, max_bytes)
        path = Path(uri)
        if isinstance(first, _Folder):
            path = first.path / path
        return self._read_file(uri, path, max_bytes)

    def _read_file(self, uri: str, path: Path, max_bytes: int) -> bytes:
        if not path.is_absolute():
            raise Unreadable(uri, "is a relative path, and there is no root for it to start in")
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a NUL
            raise Unreadable(uri, f"is no path that can be followed: {error}") from None
        folders = [root.path for root in self._roots if isinstance(root, _Folder)]
        under = next((folder for folder in folders if resolved.is_relative_to(folder)), None)
        if under is None:
            # Whether there is such a file is not told.
            raise Unreadable(uri, "is outside the folders that content may be read from")
        try:
            with _opened(under, resolved) as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise Unreadable(uri, "is not a regular file")
                return _bounded(uri, file, found.st_size, max_bytes)
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in _OF_THE_FILE:
                raise Unreadable(uri, f"cannot be read: {why}") from None
            raise Unreached(uri, why) from None

    def _read_object(self, uri: str, full: str, max_bytes: int) -> bytes:
        stores = [root for root in self._roots if isinstance(root, _Store)]
        under = next((store for store in stores if full.startswith(store.uri)), None)
        key = "" if under is None else full.removeprefix(under.uri)
        if under is None or any(part in ("", ".", "..") for part in key.split("/")):
            raise Unreadable(uri, "is outside the folders that content may be read from")
        try:
            with under.filesystem.open_input_file(under.base + key) as file:
                return _bounded(uri, file, file.size(), max_bytes)
        except (OSError, pa.ArrowException) as error:
            why = _without_credentials(str(error), under.given)
            # Some stores say of what is not there that it is denied.
            its_own = isinstance(error, (FileNotFoundError, PermissionError, pa.ArrowException))
            if its_own or "ACCESS_DENIED" in why:
                raise Unreadable(uri, f"cannot be read: {why}") from None
            raise Unreached(uri, why) from None


class LazyRoots:
    """Roots that are looked at when content is asked for: one that is not mounted keeps nobody from
    other work, and is read from once it is there."""

    def __init__(self, roots: Sequence[Path | str]) -> None:
        """roots: as `Roots` takes them."""
        self._given = roots
        self._roots: Roots | None = None
        self._lock = threading.Lock()

    def read(self, uri: str, max_bytes: int) -> bytes:
        """As `Roots.read`; raises Unreached where a root cannot be used for now, too."""
        try:
            with self._lock:
                roots = self._roots = self._roots or Roots(self._given)
        except BadRoot as error:
            raise Unreached(uri, error.message) from None
        return roots.read(uri, max_bytes)


def _root(given: Path | str) -> _Folder | _Store:
    scheme = None if isinstance(given, Path) else _scheme(given)
    if scheme in _STORES:
        root = str(given)
        try:
            filesystem, base = pyarrow.fs.FileSystem.from_uri(root)
        except (OSError, pa.ArrowException) as error:
            shown, why = (_without_credentials(text, root) for text in (root, str(error)))
            raise BadRoot(f"the root {shown} cannot be used: {why}") from None
        return _Store(f"{_bare(root)}/", f"{base.rstrip('/')}/", filesystem, root)
    if scheme not in (None, "file"):
        shown = _without_credentials(str(given), str(given))
        raise BadRoot(
            f"the root {shown} is in no store that content is read from: give a folder, or an "
            "s3:// or gs:// URI"
        )
    try:
        path = (_path_of(str(given)) if scheme else Path(given)).resolve()
    except Unreadable as error:
        raise BadRoot(f"the root {error.message}") from None
    if not path.is_dir():
        raise BadRoot(f"the root {given} is no folder: content is read from folders that exist")
    return _Folder(path)


def _bare(root: str) -> str:
    """A store's root without credentials and options: what the URIs under it begin with."""
    scheme, _, rest = root.partition("?")[0].rstrip("/").partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _shown(uri: str) -> str:
    """A URI as an error repeats it. Credentials may hold a `/`: what stands before its last @ is
    hidden."""
    hidden = re.sub(r"(?<=://).*@", "…@", uri, flags=re.DOTALL)
    return repr(hidden if len(hidden) <= _SHOWN else f"{hidden[:_SHOWN]}…")


def _without_credentials(text: str, root: str) -> str:
    """A text about a root, without what stands before the root's last @, well-formed or not, as a
    whole or in parts."""
    credentials = root.partition("://")[2].rpartition("@")[0]
    parts = {credentials, *credentials.split(":")}
    for part in sorted(parts | {unquote(each) for each in parts}, key=len, reverse=True):
        if part:
            text = text.replace(part, "…")
    return text


def _scheme(uri: str) -> str | None:
    """In small letters; None for a path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else None


def _path_of(uri: str) -> Path:
    """The path of a `file:` URI."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise Unreadable(uri, f"is no URI: {error}") from None
    if parts.netloc not in ("", "localhost"):
        raise Unreadable(uri, "is on another machine, which is not asked: write file:///…")
    if parts.query or parts.fragment:
        raise Unreadable(uri, "has an unescaped ? or #: write %3F and %23 in a file: URI")
    return Path(os.fsdecode(unquote_to_bytes(parts.path)))


def _opened(root: Path, resolved: Path) -> IO[bytes]:
    """The file, reached from the root without following any link: what was resolved cannot be
    exchanged for a link to elsewhere in between."""
    try:
        here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:  # the root was there: it is not the file that is missing
        raise OSError(errno.EIO, f"its root: {error.strerror}") from error
    try:
        *folders, name = resolved.relative_to(root).parts or (".",)
        for folder in folders:
            inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = inside
        # Not to wait for the other end of a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(name, flags, dir_fd=here)
    finally:
        os.close(here)
    try:
        return os.fdopen(descriptor, "rb")
    except OSError:  # a folder
        os.close(descriptor)
        raise


def _bounded(uri: str, file: Any, size: int, max_bytes: int) -> bytes:
    """What the file holds. size: what it said to hold; it may grow meanwhile."""
    data = b"" if size > max_bytes else bytes(file.read(max_bytes + 1))
    if max(size, len(data)) > max_bytes:
        raise Unreadable(uri, f"has more than {max_bytes:,} bytes, the most that is read")
    return data


def _embedded(uri: str, max_bytes: int) -> bytes:
    """The content of a `data:` URI."""
    head, comma, payload = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise Unreadable(uri, "is no data: URI in base64: write data:image/png;base64,…")
    if len(payload) > 2 * max_bytes + 4:  # a third more, and some of it escaped
        raise Unreadable(uri, f"has more than {max_bytes:,} bytes, the most that is read")
    try:
        data = base64.b64decode(unquote_to_bytes(payload), validate=True)
    except binascii.Error as error:
        raise Unreadable(uri, f"is not valid base64: {error}") from None
    if len(data) > max_bytes:
        raise Unreadable(uri, f"has more than {max_bytes:,} bytes, the most that is read")
    return data
