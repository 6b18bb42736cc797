"""Sources: files in their true formats (stand-ins), damaged ones, downloads from a local server, hostile archives."""

import gzip
import hashlib
import io
import os
import pickle
import re
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nclib.__main__ import main
from nclib.data import cifar10_small, dataset, sources, stand_ins
from nclib.data.sources import SourceError, SourceImages, cifar10, decoding, download
from nclib.study.files import temporary_beside
from nclib.study.folders import data_root
from nclib.study.parameters import Dataset

MD5_OF_ANOTHER = hashlib.md5(b"another").hexdigest()
CLOSED = "http://127.0.0.1:9/"  # the discard port: nobody listens


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may read or write real data."""
    monkeypatch.setenv("NCLIB_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("NCLIB_CACHE_ROOT", str(tmp_path / "cache"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10, MNIST

    monkeypatch.setattr(MNIST, "mirrors", [CLOSED])
    monkeypatch.setattr(CIFAR10, "url", CLOSED + "cifar-10-python.tar.gz")


def test_relative_roots_start_at_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert data_root() == tmp_path / "root"
    assert Dataset(source="image_folder", name="a", root="images").source_folder == tmp_path / "root" / "images"
    monkeypatch.delenv("NCLIB_DATA_ROOT")
    assert data_root() == tmp_path / "data"
    assert Dataset(source="image_folder", name="a").source_folder == tmp_path / "data" / "a"


# MNIST


@pytest.fixture
def mnist_root(tmp_path: Path) -> Path:
    stand_ins.write_mnist(tmp_path / "root", per_class=3)
    return tmp_path / "root"


def test_mnist_is_read_from_its_own_files(mnist_root: Path) -> None:
    for train, part in ((True, "train"), (False, "t10k")):
        source = sources.load("mnist", train=train)
        raw = (mnist_root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte").read_bytes()[16:]
        assert tuple(source.images.shape) == (30, 1, 28, 28) and source.images.dtype == torch.uint8
        assert source.images.numpy().tobytes() == raw
        assert source.labels.tolist() == sorted(list(range(10)) * 3) and source.labels.dtype == torch.int64
    splits = dataset.build(source="mnist", layout="mnist", train_counts={1: 5, 2: 1}, test_counts={1: 1}, seed=1)
    assert tuple(splits.train.images.shape) == (95, 1, 56, 56)


def test_mnist_in_a_folder_that_cannot_be_written(mnist_root: Path) -> None:
    files = sorted((mnist_root / "MNIST" / "raw").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    (mnist_root / "MNIST" / "raw").chmod(0o555)
    try:
        assert len(sources.load("mnist", train=True)) == 30
    finally:
        (mnist_root / "MNIST" / "raw").chmod(0o755)
    assert sorted((mnist_root / "MNIST" / "raw").iterdir()) == files
    assert [file.stat().st_mtime_ns for file in files] == before


def test_mnist_without_network_says_what_to_put_where(offline: None, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Cannot download train-images-idx3-ubyte\.gz .*Put train-images-idx3-ubyte"):
        sources.load("mnist", train=True)
    with pytest.raises(SourceError, match=r"root/MNIST/raw, or set NCLIB_DATA_ROOT"):
        sources.load("mnist", train=False)


@pytest.mark.parametrize(
    "file, change, message",
    [
        ("images-idx3", lambda raw: raw[:-1], "no IDX file of MNIST"),
        ("images-idx3", lambda raw: raw + b"\0", "no IDX file of MNIST"),
        ("images-idx3", lambda raw: raw[:10], "no IDX file of MNIST"),
        ("images-idx3", lambda raw: b"", "no IDX file of MNIST"),
        ("images-idx3", lambda raw: gzip.compress(raw), "no IDX file of MNIST"),
        ("images-idx3", lambda raw: raw[:4] + b"\x7f\xff\xff\xff" + raw[8:], "no IDX file of MNIST"),
        ("images-idx3", lambda raw: raw[:7] + b"\0" + raw[8:16], "no IDX file of MNIST"),
        ("images-idx3", lambda raw: raw[:11] + b"\x0e" + raw[12:15] + b"\x38" + raw[16:], "images of 28 x 28"),
        ("labels-idx1", lambda raw: raw[:7] + b"\x1d" + raw[8:-1], r"images \(30, 28, 28\) and labels \(29,\)"),
        ("labels-idx1", lambda raw: raw[:-1] + b"\x0a", "as labels 0..9: replace both"),
    ],
)
def test_damaged_mnist_files_are_named(mnist_root: Path, file: str, change, message: str) -> None:
    path = mnist_root / "MNIST" / "raw" / f"train-{file}-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(SourceError, match=message) as caught:
        sources.load("mnist", train=True)
    assert str(path) in str(caught.value)


# CIFAR-10


@pytest.fixture
def cifar_root(tmp_path: Path) -> Path:
    stand_ins.write_cifar10(tmp_path / "root", per_class=10)
    return tmp_path / "root"


def test_cifar10_is_read_from_its_binary_version(cifar_root: Path) -> None:
    train, test = (sources.load("cifar10", train=train) for train in (True, False))
    assert tuple(train.images.shape) == tuple(test.images.shape) == (100, 3, 32, 32)
    assert train.class_names[0] == "airplane" and train.labels.bincount().tolist() == [10] * 10
    batch = np.fromfile(cifar_root / "cifar-10-batches-bin" / "data_batch_2.bin", np.uint8).reshape(-1, 3073)
    assert np.array_equal(train.images[20:40].numpy().reshape(20, -1), batch[:, 1:])
    assert train.labels[20:40].tolist() == batch[:, 0].tolist()
    splits = dataset.build(
        source="cifar10", layout="cifar", train_counts={1: 3, 2: 1}, test_counts={1: 1}, normalization="cifar10"
    )
    assert tuple(splits.train.images.shape) == (75, 3, 64, 64) and len(splits.mean) == 3


@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-1], lambda raw: raw[:-3073], lambda raw: b"", lambda raw: b"\x0a" + raw[1:], None]
)
def test_damaged_cifar10_files_are_named(cifar_root: Path, change) -> None:
    path = cifar_root / "cifar-10-batches-bin" / "data_batch_3.bin"
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(SourceError, match=r"data_batch_3\.bin.*Unpack cifar-10-binary"):
        sources.load("cifar10", train=True)


def test_pickles_of_cifar10_are_not_opened_before_their_checksum_is_right(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    for name in ["batches.meta", "test_batch", *(f"data_batch_{n}" for n in range(1, 6))]:
        (folder / name).write_bytes(evil)
    with pytest.raises(
        SourceError, match=r"expected data_batch_1 to have md5 \w{32}, but got \w{32}\..* binary layout"
    ):
        sources.load("cifar10", train=True)
    (folder / "data_batch_1").unlink()
    with pytest.raises(SourceError, match="is not the published one: data_batch_1 is missing"):
        sources.load("cifar10", train=True)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "source, name", [("cifar10", "cifar-10-python.tar.gz"), ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz")]
)
def test_an_archive_with_another_checksum_is_kept_and_named(
    offline: None, tmp_path: Path, source: str, name: str
) -> None:
    path = tmp_path / "root" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another")
    with pytest.raises(
        SourceError, match=rf"{path} is not the published file: expected md5 \w+, but got {MD5_OF_ANOTHER}"
    ):
        sources.load(source, train=True)
    assert list(path.parent.iterdir()) == [path] and path.read_bytes() == b"another"


def test_cifar10_without_network_says_what_to_put_where(offline: None) -> None:
    with pytest.raises(SourceError, match=r"Cannot download .*Put cifar-10-python\.tar\.gz .* into .*root, or set"):
        sources.load("cifar10", train=True)


# folders of images and stand-ins


def test_the_command_writes_stand_ins_into_a_new_folder_only(tmp_path: Path, capsys) -> None:
    assert stand_ins.main(["mini_imagenet", str(tmp_path / "root")]) == 0
    assert "Stand-ins for mini_imagenet are in" in capsys.readouterr().out
    splits = dataset.build(source="image_folder", name="mini_imagenet")
    assert splits.train.images.shape[1:] == (3, 84, 84)
    with pytest.raises(SystemExit):
        stand_ins.main(["mnist", str(tmp_path / "root")])
    assert "is not empty: real data could be overwritten" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stand_ins.write_image_folder(tmp_path / "images", classes=3, per_class=12, side=20)
    return tmp_path / "images"


def test_an_image_folder_is_split_by_class_like_mini_imagenet(folder: Path) -> None:
    options = {"source": "image_folder", "root": folder, "test_fraction": 0.1667, "normalization": "imagenet"}
    splits = dataset.build(**options)
    assert splits.train.labels.sum(0).tolist() == [10] * 3 and splits.test.labels.sum(0).tolist() == [2] * 3
    assert splits.class_names == ("class000", "class001", "class002")
    files = sorted(folder.glob("*/*.png"))
    for split in (splits.train, splits.test):
        for image, place in zip(split.images, split.source_index[:, 0], strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(files[place])))
    seen = torch.cat([splits.train.source_index, splits.test.source_index])
    assert len(seen) == 36 == len(seen.unique())
    last = dataset.build(**options, split="last").test.source_index.flatten()
    assert last.tolist() == [10, 11, 22, 23, 34, 35]  # the last two files of each class of twelve


def test_an_image_folder_without_root_is_named_after_the_data_set(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    folder.rename(tmp_path / "root" / "mini")
    assert len(dataset.build(source="image_folder", name="mini", test_fraction=0.5).train) == 18
    with pytest.raises(SourceError, match="root/maxi is no folder: put one folder of images per class there"):
        dataset.build(source="image_folder", name="maxi")


@pytest.mark.parametrize("training, test", [("train", "test"), ("Train", "Val"), ("training", "validation")])
def test_folders_of_splits_are_found(folder: Path, tmp_path: Path, training: str, test: str, caplog) -> None:
    both = tmp_path / "both"
    (both / ".git").mkdir(parents=True)
    (both / "scripts").mkdir()
    (both / "README.md").touch()
    folder.rename(both / training)
    stand_ins.write_image_folder(both / test, classes=3, per_class=2, side=20, seed=1)
    splits = dataset.build(source="image_folder", root=both)
    assert (len(splits.train), len(splits.test)) == (36, 6)
    assert (f"{test} is the test split" in caplog.text) == (test != "test")
    (both / test / "class002").rename(both / test / "another")
    with pytest.raises(ValueError, match="the same classes in both splits of image_folder"):
        dataset.build(source="image_folder", root=both)


def test_of_several_test_folders_the_study_names_one(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "several"
    root.mkdir()
    folder.rename(root / "train")
    for name, per_class in (("val", 1), ("test", 2)):
        stand_ins.write_image_folder(root / name, classes=3, per_class=per_class, side=20)
    with pytest.raises(SourceError, match=r"has 'test' and 'val': set dataset\.test_folder"):
        dataset.build(source="image_folder", root=root)
    assert len(dataset.build(source="image_folder", root=root, test_folder="val").test) == 3
    with pytest.raises(SourceError, match="no folder 'train' beside 'dev' with class folders in both"):
        dataset.build(source="image_folder", root=root, test_folder="dev")
    for field, value in (("test_folder", "val"), ("split", "last")):
        with pytest.raises(ValueError, match="it is for source 'image_folder'"):
            dataset.build(source="digits", **{field: value})


def test_a_class_may_be_called_train(folder: Path) -> None:
    (folder / "class000").rename(folder / "train")
    (folder / "class001").rename(folder / "test")
    assert dataset.build(source="image_folder", root=folder).class_names == ("class002", "test", "train")


def test_hidden_entries_are_skipped_and_other_files_named(folder: Path, caplog) -> None:
    for hidden in (".git", ".ipynb_checkpoints", "__MACOSX", "class000/.ipynb_checkpoints"):
        (folder / hidden).mkdir()
    (folder / "class000" / "._0.png").write_bytes(b"of a Mac")
    assert dataset.build(source="image_folder", root=folder).class_names == ("class000", "class001", "class002")
    assert "Skipped" not in caplog.text
    Image.new("RGB", (20, 20)).save(folder / "class001" / "a.gif")
    assert len(sources.load("image_folder", root=folder, train=True, test_fraction=0.5)) == 18
    assert re.search(r"Skipped 1 files in .*images, since only \.png, .* are read: class001/a\.gif", caplog.text)


def test_links_to_nothing_and_names_that_are_not_utf8_are_errors(folder: Path) -> None:
    link = folder / "class001" / "0.png"
    link.symlink_to("gone.png")
    with pytest.raises(SourceError, match=r"class001/0\.png is a link to nothing: replace or remove it"):
        sources.load("image_folder", root=folder, train=True)
    link.unlink()
    (folder / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(SourceError, match=r"images has an entry whose name is not UTF-8: rename caf\\xe9"):
        sources.load("image_folder", root=folder, train=True)


def test_sixteen_bits_transparency_and_orientation(tmp_path: Path) -> None:
    path = tmp_path / "a.png"

    def read() -> np.ndarray:
        return decoding.decode(path, lambda image: image)

    wide = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for name in ("a.png", "a.tiff"):
        path = tmp_path / name
        Image.fromarray(wide).save(path)
        assert read()[0].tolist() == [[0, 0, 1, 128, 255]]
    Image.fromarray(wide.astype(np.int32)).save(path)
    with pytest.raises(SourceError, match="its pixels have 32 bits; 8 or 16 are read"):
        read()
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[[9, 9, 9, 0], [200, 100, 0, 255], [0, 0, 0, 51]]], np.uint8)).save(path)
    assert read().transpose(1, 2, 0).tolist() == [[[255] * 3, [200, 100, 0], [204] * 3]]
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(path, exif=exif)
    assert read()[0].tolist() == [[0], [255]]


def test_images_of_many_kinds_become_rgb_of_one_size(folder: Path) -> None:
    gray = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 6, (30, 1)))
    gray.save(folder / "class000" / "a.jpg", quality=95)
    gray.convert("RGBA").save(folder / "class001" / "b.png")
    gray.convert("1").save(folder / "class002" / "c.bmp")
    with pytest.raises(SourceError, match=r"pixels, but .* set dataset\.image_size to resize all"):
        sources.load("image_folder", root=folder, train=True)
    source = sources.load("image_folder", root=folder, train=True, image_size=16, test_fraction=0.1)
    assert tuple(source.images.shape[1:]) == (3, 16, 16) and source.images.dtype == torch.uint8


def test_decoded_images_are_cached_until_a_file_changes(folder: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    def load() -> SourceImages:
        return sources.load("image_folder", root=folder, train=True)

    first = load()
    decode = decoding.decode
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", None)
        assert torch.equal(load().images, first.images)  # from the cache
    (kept,) = (tmp_path / "cache").iterdir()
    raw = bytearray(kept.read_bytes())
    raw[-5] ^= 1
    kept.write_bytes(raw)
    decoded = []
    monkeypatch.setattr(decoding, "decode", lambda path, change: decoded.append(path) or decode(path, change))
    assert torch.equal(load().images, first.images) and decoded
    assert "is replaced" in caplog.text
    decoded.clear()
    for file in folder.glob("*/*.png"):
        os.utime(file, (0, 0))
    load()
    assert len(decoded) == len(first), "the images of the other split are not in memory"


def test_a_cache_that_cannot_be_written_does_no_harm(folder: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NCLIB_CACHE_ROOT", str(tmp_path / "file"))
    assert len(sources.load("image_folder", root=folder, train=True, test_fraction=0.5)) == 18
    assert "Not kept" in caplog.text and "NCLIB_CACHE_ROOT" in caplog.text


def _png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, without the pixels."""
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "png")
    raw = bytearray(small.getvalue())
    raw[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    raw[29:33] = zlib.crc32(bytes(raw[12:29])).to_bytes(4, "big")
    return bytes(raw)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(20), _png_of(100_000, 100_000), _png_of(9000, 9000), _png_of(20, 20)],
    ids=["empty", "cut off", "other format", "bomb", "too large", "no pixels"],
)
def test_damaged_and_hostile_images_are_named(folder: Path, content: bytes) -> None:
    path = folder / "class001" / "0005.png"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"class001/0005\.png cannot be read as an image .*replace or remove it"):
        sources.load("image_folder", root=folder, train=True)


def test_all_broken_images_are_listed_at_once(folder: Path) -> None:
    broken = [folder / "class000" / "0000.png", *sorted((folder / "class002").iterdir())[3:5]]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(SourceError) as caught:
        sources.load("image_folder", root=folder, train=True, test_fraction=0.01, seed=1)
    lines = str(caught.value).splitlines()
    assert [line.partition(" cannot be read as an image")[0] for line in lines] == [str(path) for path in broken]


def test_folders_that_are_no_classes_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has 0 class folders, but expected 2 or more"):
        sources.load("image_folder", root=folder / "class000", train=True)
    (folder / "empty").mkdir()
    with pytest.raises(SourceError, match=r"images/empty has no image \(\.png, .*\): fill or remove it"):
        sources.load("image_folder", root=folder, train=True)
    Image.new("RGB", (20, 20)).save(folder / "empty" / "1.png")
    with pytest.raises(SourceError, match="cannot be split: Expected every class to have 2 images or more"):
        sources.load("image_folder", root=folder, train=True)


def test_folders_within_class_folders_are_refused(folder: Path) -> None:
    (folder / "class002" / "more").mkdir()
    with pytest.raises(SourceError, match=r"class002/more is a folder, but images must lie directly in the folder of"):
        sources.load("image_folder", root=folder, train=True)


# downloads


class Server(ThreadingHTTPServer):
    """Serves `content`; the first `breaks` answers end half-way."""

    daemon_threads = True
    content = b""
    breaks = 0
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.answers += 1
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        body = self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def of_process(path: Path, ending: str, process: int) -> Path:
    """The temporary name that another process of this machine uses."""
    own = temporary_beside(path, ending)
    return own.with_name(own.name.replace(f".{os.getpid()}.", f".{process}."))


def fetched(server: Server, path: Path, *, content: bytes | None = None) -> Path:
    digest = hashlib.sha256(server.content if content is None else content).hexdigest()
    return download.fetch([server.url + path.name], path, digest=digest, advice="Put it there by hand.")


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    server.content = os.urandom(3_000_000)
    path = fetched(server, tmp_path / "new" / "a.bin")
    assert path.read_bytes() == server.content
    assert fetched(server, path) == path and server.answers == 1
    assert [file.name for file in path.parent.iterdir()] == ["a.bin"]


def test_a_broken_connection_and_wrong_bytes_leave_nothing(server: Server, tmp_path: Path) -> None:
    server.content, server.breaks = os.urandom(64_000), 1
    with pytest.raises(SourceError, match=r"Cannot download a\.bin \(http.*32000 bytes read.*\)\. Put it there by"):
        fetched(server, tmp_path / "a.bin")
    with pytest.raises(SourceError, match=r"a\.bin: expected sha256 [0-9a-f]{64}, but got [0-9a-f]{64}\)\. Put it"):
        fetched(server, tmp_path / "a.bin", content=b"what was promised")
    assert list(tmp_path.iterdir()) == []
    assert fetched(server, tmp_path / "a.bin").read_bytes() == server.content


def test_another_file_of_that_name_is_kept(server: Server, tmp_path: Path) -> None:
    server.content = b"content"
    (tmp_path / "a.bin").write_bytes(b"the user's own")
    with pytest.raises(
        SourceError, match=r"a\.bin is not the published file: expected sha256 [0-9a-f]{64}, but got .* Put it"
    ):
        fetched(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"the user's own" and server.answers == 0


def test_the_next_mirror_is_tried(server: Server, tmp_path: Path) -> None:
    server.content = b"content"
    digest = hashlib.md5(b"content").hexdigest()
    urls = [CLOSED + "a.bin", server.url + "a.bin"]
    assert download.fetch(urls, tmp_path / "a.bin", digest=digest, advice="").read_bytes() == b"content"


def test_a_missing_page_and_a_folder_that_is_none_are_named(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(SourceError, match=r"a\.bin: 404 .*Not Found"):
        fetched(server, tmp_path / "a.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match=r"Cannot fetch .*file/a\.bin: .*Put it there by hand"):
        fetched(server, tmp_path / "file" / "a.bin")


def test_two_processes_do_not_mix_their_bytes(server: Server, tmp_path: Path) -> None:
    server.content = b"content"
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, busy = (of_process(tmp_path / "a.bin", "part", process) for process in (gone.pid, os.getppid()))
    for place in (left, busy):
        place.write_bytes(b"of another process")
    path = fetched(server, tmp_path / "a.bin")
    assert sorted(tmp_path.iterdir()) == [busy, path]
    assert busy.read_bytes() == b"of another process" and path.read_bytes() == server.content


# archives


def pack(path: Path, members: list[tarfile.TarInfo | str]) -> Path:
    """A tar archive; a member given as text is a file of that name that holds its name."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            content = info.name.encode() if info.isfile() else b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_an_archive_is_unpacked_as_its_top_folder(tmp_path: Path) -> None:
    archive = pack(tmp_path / "train.tar.gz", ["train/1.png", "train/deep/2.png"])
    folder = tmp_path / "svhn" / "train"
    download.unpack(archive, folder)
    assert (folder / "1.png").read_text() == "train/1.png" and (folder / "deep" / "2.png").is_file()
    assert [file.name for file in folder.parent.iterdir()] == ["train"]


def test_what_killed_unpackers_left_is_removed(tmp_path: Path) -> None:
    archive = pack(tmp_path / "train.tar.gz", ["train/1.png"])
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, own, busy = (
        of_process(tmp_path / "in" / "train", "unpacking", process)
        for process in (gone.pid, os.getpid(), os.getppid())  # a number may come again
    )
    for place in (left, own, busy):
        (place / "train").mkdir(parents=True)
    folder = tmp_path / "in" / "train"
    download.unpack(archive, folder)
    assert sorted(folder.parent.iterdir()) == [busy, folder]


@pytest.mark.parametrize(
    "member",
    [
        "train/../../outside.txt",
        "/tmp/nclib-outside.txt",
        special("train/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("train/pipe", tarfile.FIFOTYPE),
        special("train/device", tarfile.CHRTYPE),
    ],
    ids=["dots", "absolute", "symlink", "pipe", "device"],
)
def test_members_that_leave_the_folder_are_refused(tmp_path: Path, member: tarfile.TarInfo | str) -> None:
    archive = pack(tmp_path / "train.tar.gz", ["train/1.png", member])
    if member == "/tmp/nclib-outside.txt":  # the filter takes the slash away: it lands inside, as tar itself does
        download.unpack(archive, tmp_path / "in" / "train")
        assert not Path(member).exists()
        return
    with pytest.raises(SourceError, match=r"train\.tar\.gz cannot be unpacked"):
        download.unpack(archive, tmp_path / "in" / "train")
    assert list((tmp_path / "in").iterdir()) == [] and not (tmp_path / "outside.txt").exists()


def test_archives_of_something_else_leave_nothing(tmp_path: Path) -> None:
    archive = pack(tmp_path / "train.tar.gz", [f"train/{n}.png" for n in range(20)])
    with pytest.raises(SourceError, match=r"train\.tar\.gz holds no folder 'test'"):
        download.unpack(archive, tmp_path / "in" / "test")
    for content in (b"", b"no archive", archive.read_bytes()[:50]):
        archive.write_bytes(content)
        with pytest.raises(SourceError, match=r"train\.tar\.gz cannot be unpacked"):
            download.unpack(archive, tmp_path / "in" / "train")
    assert list((tmp_path / "in").iterdir()) == []


def test_mnist_is_fetched_and_unpacked(server: Server, mnist_root: Path, monkeypatch) -> None:
    from torchvision.datasets import MNIST

    path = mnist_root / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    whole = path.read_bytes()
    server.content = gzip.compress(whole)
    path.unlink()
    monkeypatch.setattr(MNIST, "mirrors", [server.url])
    md5 = hashlib.md5(server.content).hexdigest()
    monkeypatch.setattr(MNIST, "resources", [("train-labels-idx1-ubyte.gz", md5)])
    assert len(sources.load("mnist", train=True)) == 30
    assert path.read_bytes() == whole


@pytest.fixture
def cifar_archive(tmp_path: Path, monkeypatch) -> tuple[Path, dict[str, dict]]:
    """An archive in the format of cifar-10-python.tar.gz that counts as the published one, and what is in it."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    content = {"batches.meta": {"label_names": list(cifar10.CLASS_NAMES)}}
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        content[name] = {"data": rng.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 9, 3, 3]}
    folder = tmp_path / "made" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    md5 = {}
    for name, value in content.items():
        raw = pickle.dumps(value)  # the format CIFAR-10 is published in
        (folder / name).write_bytes(raw)
        md5[name] = hashlib.md5(raw).hexdigest()
    archive = tmp_path / "made" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, folder.name)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in content if "data" in name])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    return archive, content


def test_cifar10_is_fetched_unpacked_and_read_by_torchvision(server: Server, cifar_archive, monkeypatch) -> None:
    from torchvision.datasets import CIFAR10

    archive, content = cifar_archive
    server.content = archive.read_bytes()
    monkeypatch.setattr(CIFAR10, "url", server.url + archive.name)
    train, test = (sources.load("cifar10", train=train) for train in (True, False))
    assert server.answers == 1
    assert (len(train), len(test)) == (20, 4) and train.labels.tolist() == [0, 9, 3, 3] * 5
    assert np.array_equal(train.images[4:8].numpy().reshape(4, -1), content["data_batch_2"]["data"])
    assert train.images.is_contiguous() and train.images.dtype == torch.uint8


def test_the_first_images_of_each_file_of_cifar10_become_a_folder(cifar_archive, tmp_path, monkeypatch, capsys) -> None:
    archive, content = cifar_archive
    monkeypatch.setattr(cifar10_small, "PER_FILE", 3)
    command = [str(archive), str(tmp_path / "root" / "small")]
    assert cifar10_small.main(command) == 0
    assert len(list((tmp_path / "root").rglob("*.png"))) == 18
    for name, split, file in (("data_batch_4", "train", 4), ("test_batch", "test", 0)):
        for place, label in enumerate(("airplane", "truck", "cat")):
            image = np.asarray(Image.open(tmp_path / "root" / "small" / split / label / f"{file}{place:05d}.png"))
            assert np.array_equal(image, content[name]["data"][place].reshape(3, 32, 32).transpose(1, 2, 0))
    built = dataset.build(source="image_folder", name="small", image_size=32)
    assert (len(built.train), len(built.test), built.class_names) == (15, 3, ("airplane", "cat", "truck"))
    assert main(["cifar10-small", *command]) == 2 and "is there already" in capsys.readouterr().err
    archive.write_bytes(archive.read_bytes()[:-100])
    assert main(["cifar10-small", str(archive), str(tmp_path / "other")]) == 2
    assert "cannot be unpacked" in capsys.readouterr().err and not list(tmp_path.glob("*other*"))
