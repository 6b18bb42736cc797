"""The files that a data set is made from: whether they are there, and whether they are those it was made from."""

import glob
import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from nclib.study.files import StageError, json_or_empty, sha256, write_text
from nclib.study.parameters import Dataset
from nclib.study.registry import IMAGE_ENDINGS, SOURCES

PATIENCE = 2.0  # seconds


def files_fingerprint(dataset: Dataset, memory: Path) -> str | None:
    """A SHA-256 of the names and contents of all files that a data set reads; None if it needs none or none are there.

    It is that of the lines `SHA-256  NAME`, by name, as `sha256sum` prints them. A file whose size and time of change
    are those in `memory`, a file that may be deleted at any time, is not read again; that is all that times decide.
    """
    folder, known = dataset.source_folder, json_or_empty(memory)
    found = {name: [*_size_and_time(folder / name), ""] for name in sorted(_names(dataset))}
    new = [name for name, facts in found.items() if facts[:2] != known.get(name, [])[:2]]
    with ThreadPoolExecutor() as pool:
        hashes = dict(zip(new, pool.map(lambda name: _hash(folder / name), new), strict=True))
    for name, facts in found.items():
        facts[2] = hashes[name] if name in hashes else known[name][2]
    if found != known:
        with suppress(StageError):  # it costs the next call some time
            write_text(memory, json.dumps(found))
    lines = "".join(f"{facts[2]}  {name}\n" for name, facts in found.items())
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest() if found else None


def absent(dataset: Dataset) -> dict[Path, float | int]:
    """The archives that a data set needs and that are not there, unpacked or not, and their sizes [MB].

    For images of the user's own it is their folder.
    """
    lacking = {}
    for pattern, known in SOURCES[dataset.source].archives.items():
        archive, size = known or ("", 0)
        path = dataset.source_folder / archive
        if not path.is_file() and not any(_matches(dataset, pattern)):
            lacking[path] = size
    return lacking


def answers(url: str) -> bool:
    """Whether a server answers within `PATIENCE` seconds, whatever it says."""
    import requests  # a third of a second, which is seldom needed

    heard = threading.Event()

    def ask() -> None:
        with suppress(requests.RequestException):
            requests.head(url, timeout=PATIENCE)
            heard.set()

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name knows no limit
    asking.start()
    asking.join(PATIENCE)
    return heard.is_set()


def _names(dataset: Dataset) -> set[str]:
    """The files that a data set reads, from its source's folder."""
    found = {name for pattern in SOURCES[dataset.source].archives for name in _matches(dataset, pattern)}
    own = dataset.source == "image_folder"
    return {name for name in found if name.lower().endswith(IMAGE_ENDINGS)} if own else found


def _matches(dataset: Dataset, pattern: str) -> Iterator[str]:
    """Names without hidden ones, through symbolic links; names are found in half the time that paths take."""
    return glob.iglob(pattern, root_dir=dataset.source_folder, recursive=True)  # noqa: PTH207


def _size_and_time(path: Path) -> tuple[int, int]:
    with suppress(OSError):
        status = path.stat()
        return status.st_size, status.st_ctime_ns
    return 0, 0


def _hash(path: Path) -> str:
    with suppress(OSError):  # a file that cannot be read is for the data set's reader to report
        return sha256(path)
    return ""
