"""Bytes from a file, a folder or a zip, in blocks of whole lines with their line numbers."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from recsys.data.readers.rows import BadSource, Progress

BLOCK = 32 * 2**20
"""Bytes that are parsed together: what bounds the memory of an import."""

BOM = b"\xef\xbb\xbf"

_BROKEN = (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, NotImplementedError)
"""What zipfile raises for a zip that is damaged, encrypted or packed in an unknown way."""


@dataclass(frozen=True)
class Member:
    """One file, as it lies or in a zip. It is read where it is: nothing is ever unpacked."""

    path: Path
    inside: str | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(self.inside).name if self.inside else self.path.name

    def __str__(self) -> str:
        return f"{self.path}:{self.inside}" if self.inside else str(self.path)

    @property
    def size(self) -> int:
        """Bytes, unpacked."""
        if self.inside is None:
            return self.path.stat().st_size
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(self.inside).file_size

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes; raises BadSource if it cannot be opened or the zip is broken."""
        if self.inside is None:
            try:
                file = self.path.open("rb")
            except OSError as error:
                raise BadSource(f"{self} cannot be opened: {error.strerror}") from None
            with file:
                yield file
            return
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.inside) as packed:
                yield packed
        except _BROKEN as error:
            raise BadSource(f"{self} is broken: {error}; fetch it again") from None

    def head(self, n_bytes: int = 65_536) -> bytes:
        """The beginning, without a byte order mark."""
        with self.open() as file:
            return file.read(n_bytes).removeprefix(BOM)


def members(source: Path) -> dict[str, Member]:
    """The files of a folder, of a zip (in whatever folder they are inside it), or the file itself,
    by name. Raises BadSource if there is nothing there or the zip is broken."""
    if not source.exists():
        raise BadSource(f"{source}: there is no such file or folder")
    if source.is_dir():
        return {path.name: Member(path) for path in sorted(source.iterdir()) if path.is_file()}
    if source.suffix.lower() != ".zip":
        return {source.name: Member(source)}
    try:
        with zipfile.ZipFile(source) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise BadSource(
            f"{source} is no zip, or not a whole one: {error}; fetch it again"
        ) from None
    outermost_last = sorted(names, key=lambda name: -name.count("/"))
    return {PurePosixPath(name).name: Member(source, name) for name in outermost_last}


@dataclass
class Meter:
    """Tells a progress callback of the bytes read over several files."""

    progress: Progress | None
    total: int
    done: int = 0

    def add(self, n_bytes: int) -> None:
        self.done += n_bytes
        if self.progress is not None:
            self.progress(self.done, self.total)


def blocks(
    member: Member, meter: Meter | None = None, *, size: int = BLOCK
) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines of about `size` bytes, each with the number of its first line,
    counted from 1. Raises BadSource if the file is empty or a line is longer than a block."""
    line, rest, first = 1, b"", True
    with member.open() as file:
        while chunk := file.read(size):
            if meter is not None:
                meter.add(len(chunk))
            if first:
                chunk, first = chunk.removeprefix(BOM), False
            end = chunk.rfind(b"\n") + 1
            if end == 0:
                rest += chunk
                if len(rest) > size:
                    raise BadSource(
                        f"{member}, line {line}: it is longer than {size:,} bytes; is this a text?"
                    )
                continue
            block, rest = rest + chunk[:end], chunk[end:]
            yield line, block
            line += block.count(b"\n")
    if rest:
        yield line, rest
    elif line == 1:
        raise BadSource(f"{member} is empty")


def whole(member: Member) -> bytes:
    """All of a file that is known to be small, such as a catalogue; raises as `blocks` does."""
    return b"".join(block for _, block in blocks(member))
