"""Fetching archives, which count only when their checksum is right, and unpacking them whole or not at all."""

import gzip
import logging
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pooch
import requests

from nclib.data.sources.base import SourceError
from nclib.study.files import atomic_path, temporary_beside
from nclib.study.progress import bar

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte


def fetch(urls: Sequence[str], path: Path, *, digest: str, advice: str, or_own: bool = False) -> Path:
    """Download a file once.

    The bytes gather under a temporary name, which no other process uses, and get their own only when the checksum is
    right. A file that is there already is never replaced.

    Args:
        urls: mirrors, tried in turn.
        path: where the file goes; it is also what is returned.
        digest: hexadecimal SHA-256 (64 digits) or MD5 (32 digits).
        advice: what to do by hand if it fails, for the error message.
        or_own: a file that is there already may be the user's own, of another checksum.

    Raises:
        SourceError: no mirror sends the right bytes, the folder cannot be written, or the file there has another
            checksum.
    """
    algorithm = "sha256" if len(digest) == 64 else "md5"
    temporary = temporary_beside(path, "part")
    failures = []
    try:
        if path.is_file():
            found = pooch.file_hash(path, algorithm)
            why = f"{path} is not the published file: expected {algorithm} {digest}, but got {found}."
            if found != digest and not or_own:
                raise SourceError(f"{why} It is kept; delete it to have it downloaded. {advice}")
            if found != digest:
                logging.getLogger(__name__).warning("%s It is taken as it is.", why)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        for url in urls:
            try:
                _download(url, temporary)
            except requests.RequestException as error:
                failures.append(f"{url}: {error}")
                continue
            found = pooch.file_hash(temporary, algorithm)
            if found == digest:
                temporary.replace(path)
                return path
            failures.append(f"{url}: expected {algorithm} {digest}, but got {found}")
    except OSError as error:
        raise SourceError(f"Cannot fetch {path}: {error}. {advice}") from error
    finally:
        if temporary.is_file():
            temporary.unlink()
    raise SourceError(f"Cannot download {path.name} ({'; '.join(failures)}). {advice}")


def _download(url: str, path: Path) -> None:
    # tqdm's bar is false without a total; pooch sets the true one.
    with bar(total=1, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as progress, path.open("wb") as file:
        pooch.HTTPDownloader(progress, chunk_size=CHUNK, timeout=TIMEOUT)(url, file, None)
        os.fsync(file.fileno())


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive's single top folder as `folder`, whole or not at all.

    What killed processes left of earlier tries is removed. An archive that is damaged, whose members would leave the
    folder, or that has no top folder of this name is a `SourceError`.
    """
    temporary = temporary_beside(folder, "unpacking")
    try:
        temporary.mkdir(parents=True)
        with tarfile.open(archive, "r:gz") as members:
            for member in bar(members, desc=f"Unpacking {archive.name}", unit=" files"):
                members.extract(member, temporary, filter="data")
        if not (temporary / folder.name).is_dir():
            raise SourceError(f"{archive} holds no folder {folder.name!r}.")
        if not folder.exists():
            (temporary / folder.name).replace(folder)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SourceError(
            f"{archive} cannot be unpacked into {folder} ({error}): replace it, or delete it to have it downloaded."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def gunzip(archive: Path, path: Path) -> None:
    """Unpack one gzip file that `fetch` returned as `path`, whole or not at all."""
    with atomic_path(path) as temporary, gzip.open(archive) as packed, temporary.open("wb") as file:
        shutil.copyfileobj(packed, file, CHUNK)
