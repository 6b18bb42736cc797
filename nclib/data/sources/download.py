"""Fetching archives: resumed where they broke off, checked before they count, unpacked without leaving their
folder."""

import fcntl
import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from nclib.data.sources.base import SourceError, progress
from nclib.study.files import atomic_path, sha256, temporary_beside

CHUNK = 1 << 20
ATTEMPTS = 3
TIMEOUT = 30  # seconds without a byte
MAX_BYTES = 8 << 30  # of a download, and of what an archive unpacks to
MAX_MEMBERS = 500_000
_BROKEN_ARCHIVE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError)


def fetch(urls: Sequence[str], path: Path, *, digest: str, advice: str) -> Path:
    """Download a file once; an interrupted download goes on where it stopped.

    The bytes gather in `NAME.part` (locked, so that two processes do not mix theirs) and get their name only when the
    checksum is right.

    Args:
        urls: mirrors, tried in turn; http or https.
        path: where the file shall be; if it is there with the right checksum, nothing is fetched.
        digest: hexadecimal SHA-256 (64 digits) or MD5 (32 digits).
        advice: what to do by hand if it fails, for the error message.

    Returns:
        `path`.

    Raises:
        SourceError: no mirror answers, the folder cannot be written, or the bytes have the wrong checksum.
    """
    if path.is_file() and _digest(path, digest) == digest:
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.is_file() and _digest(path, digest) == digest:  # another process was faster
                return path
            _fetch_any(urls, file, path.name, advice)
            if _digest(part, digest) != digest:
                part.unlink()
                raise SourceError(f"{urls[0]} has not the expected checksum {digest}; nothing was kept. {advice}")
            os.fsync(file.fileno())
            part.replace(path)
    except OSError as error:
        raise SourceError(f"Cannot fetch {path}: {error}. {advice}") from error
    return path


def _digest(path: Path, like: str) -> str:
    if len(like) == 64:
        return sha256(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _fetch_any(urls: Sequence[str], file: BinaryIO, name: str, advice: str) -> None:
    failures: list[str] = []
    for url in [url for url in urls for _ in range(ATTEMPTS)]:
        try:
            _fetch_rest(url, file, name)
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            failures.append(f"{url}: {error}")
    reasons = "; ".join(dict.fromkeys(failures))
    raise SourceError(f"Cannot download {name} ({reasons}). {advice} What came is kept: run the same command again.")


def _fetch_rest(url: str, file: BinaryIO, name: str) -> None:
    """Append what is missing of `url` to `file`.

    Raises:
        OSError: as urllib and http.client do; also when the connection ends before the promised length.
    """
    have = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:  # an answer, too: close its connection
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return  # nothing is missing, or `have` is junk: the checksum tells
            raise urllib.error.URLError(f"HTTP {error.code} {error.reason}") from error
    with answer:
        if have and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            file.truncate(0)  # this server cannot resume
            have = 0
        length = answer.length
        if have + (length or 0) > MAX_BYTES:
            raise urllib.error.URLError(f"{have + length} bytes are more than the {MAX_BYTES} allowed")
        total = None if length is None else have + length
        with progress(total=total, initial=have, unit="B", unit_scale=True, desc=name) as bar:
            while chunk := answer.read(CHUNK):
                have += file.write(chunk)
                bar.update(len(chunk))
                if have > MAX_BYTES:
                    raise urllib.error.URLError(f"more than the {MAX_BYTES} bytes allowed")
        file.flush()
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a tar archive's single top folder as `folder`, whole or not at all.

    What killed processes left of earlier tries is removed. Only files and folders that stay inside are taken: links,
    devices, absolute names and `..` are refused.

    Args:
        archive: a `.tar.gz`.
        folder: where its top folder shall be; the archive must have one top folder, of the same name.

    Returns:
        `folder`.

    Raises:
        SourceError: the archive is damaged, refused or does not hold that folder.
    """
    temporary = temporary_beside(folder, "unpacking")
    try:
        temporary.mkdir(parents=True)
        with (
            gzip.open(archive) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:") as members,
            progress(desc=f"Unpacking {archive.name}", unit=" files") as bar,
        ):
            size = 0
            for number, member in enumerate(members):
                size += member.size
                if number >= MAX_MEMBERS or size > MAX_BYTES:
                    raise tarfile.TarError(f"it unpacks to more than {MAX_MEMBERS} files or {MAX_BYTES} bytes")
                if not (member.isfile() or member.isdir()):
                    raise tarfile.TarError(f"{member.name!r} is neither file nor folder")
                members.extract(member, temporary, filter="data")
                bar.update()
            _check_end(unpacked)
        if not (temporary / folder.name).is_dir():
            raise tarfile.TarError(f"it holds no folder {folder.name!r}")
        if not folder.exists():
            (temporary / folder.name).replace(folder)
    except _BROKEN_ARCHIVE as error:
        raise SourceError(
            f"{archive} cannot be unpacked ({error}): delete it and run the same command again."
        ) from error
    except OSError as error:
        raise SourceError(f"{archive} cannot be unpacked into {folder}: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _check_end(unpacked: gzip.GzipFile) -> None:
    """Python's tarfile takes a damaged header for the archive's end: what follows the true end are 512 zeros or more.

    Reading on to the end also has gzip check its own checksum.
    """
    length = 0
    while chunk := unpacked.read(CHUNK):
        length += len(chunk)
        if chunk.count(0) < len(chunk):
            raise tarfile.TarError("a header in it is damaged")
    if length < tarfile.BLOCKSIZE:
        raise tarfile.TarError("its end is missing")


def gunzip(archive: Path, path: Path) -> Path:
    """Unpack one gzip file as `path`, whole or not at all.

    Raises:
        SourceError: the archive is damaged.
    """
    with atomic_path(path) as temporary:
        try:
            with gzip.open(archive) as packed, temporary.open("wb") as file:
                shutil.copyfileobj(packed, file, CHUNK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError(f"{archive} is damaged ({error}): delete it and run the same command again.") from error
    return path
