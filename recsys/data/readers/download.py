"""MovieLens from its makers, checked against the checksum that they publish beside it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import httpx

from infra.errors import RecsysError
from infra.storage import atomic_file
from recsys.data.readers.rows import Progress

SITE = "https://files.grouplens.org/datasets/movielens"

EDITIONS = (
    "ml-latest-small",
    "ml-100k",
    "ml-1m",
    "ml-10m",
    "ml-20m",
    "ml-25m",
    "ml-32m",
    "ml-latest",
)
"""The editions that the readers read. `ml-latest` and `ml-latest-small` change now and then."""

TIMEOUT_S = 30.0
"""How long the site may stay silent."""

_CHUNK = 2**20


class DownloadFailed(RecsysError):
    """The site was not reached, has no such file, or what it sent is not what it published."""


def download_movielens(
    name: str, destination: Path, *, site: str = SITE, progress: Progress | None = None
) -> Path:
    """Fetch the zip of an edition, whole or not at all, and return where it is.

    destination: the file to write, or the folder to put it in. progress: called with the bytes
    received and, if the site says so, how many there are. Raises DownloadFailed, and RecsysError
    for an unknown edition and if the file exists.
    """
    if name not in EDITIONS:
        raise RecsysError(f"there is no MovieLens {name!r}; there are {', '.join(EDITIONS)}")
    target = destination / f"{name}.zip" if destination.is_dir() else destination
    if target.exists():
        raise RecsysError(f"{target} exists already: choose another name, or delete it first")
    url = f"{site}/{name}.zip"
    try:
        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True) as client:
            expected = _published_md5(client, f"{url}.md5")
            received = _fetch(client, url, target, expected, progress)
    except httpx.HTTPStatusError as error:
        raise DownloadFailed(f"{url}: the site answers {error.response.status_code}") from None
    except httpx.HTTPError as error:
        raise DownloadFailed(
            f"{url} cannot be fetched: {error}. Without a network, fetch it elsewhere and name "
            f"the zip: recsys data import {name}.zip FOLDER"
        ) from None
    return received


def _published_md5(client: httpx.Client, url: str) -> str | None:
    """What the site says; None where it publishes none."""
    response = client.get(url)
    if response.status_code == httpx.codes.NOT_FOUND:
        return None
    found = re.search(r"\b[0-9a-f]{32}\b", response.raise_for_status().text.lower())
    if found is None:
        raise DownloadFailed(f"{url} holds no checksum")
    return found[0]


def _fetch(
    client: httpx.Client, url: str, target: Path, expected: str | None, progress: Progress | None
) -> Path:
    digest = hashlib.md5(usedforsecurity=False)
    with client.stream("GET", url) as response, atomic_file(target) as file:
        response.raise_for_status()
        length = response.headers.get("content-length")
        total, done = None if length is None else int(length), 0
        for chunk in response.iter_bytes(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        if expected is not None and digest.hexdigest() != expected:
            raise DownloadFailed(
                f"{url} came with the MD5 {digest.hexdigest()}, but {expected} is published: the "
                "transfer went wrong, or somebody changed the file. Nothing was kept; try again"
            )
    return target
