"""SVHN format 1: selection on labels alone, annotations (true, damaged, hostile), crops, from archive to images."""

import hashlib
import os
import tarfile
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from nclib.data import dataset, sources, stand_ins
from nclib.data.sources import SourceError, decoding, svhn
from nclib.data.sources.digit_struct import Annotation, DigitStruct
from nclib.study.registry import PUBLISHED_MOMENTS


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCLIB_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("NCLIB_CACHE_ROOT", str(tmp_path / "cache"))


# selection


def test_selection_by_a_plain_reading_of_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svhn, "SINGLE_CAP", 150)
    rng = np.random.default_rng(0)
    shares = [0.05, *([0.95 / 9] * 9)]
    numbers = [rng.choice(10, size=rng.integers(1, 6), p=shares).tolist() for _ in range(8000)]
    expected, singles = [], Counter()
    for row, number in enumerate(numbers):
        if 0 not in number and len(set(number)) <= 3:
            if len(set(number)) == 1:
                singles[number[0]] += 1
            if len(set(number)) > 1 or singles[number[0]] <= 150:
                expected.append(row)
    assert max(singles.values()) > 150 > min(singles.values()) - 100  # the cap bites
    rows, labels = svhn.select(numbers)
    assert rows.tolist() == expected
    assert [set((row.nonzero().flatten() + 1).tolist()) for row in labels] == [set(numbers[row]) for row in expected]


def test_the_papers_numbers_are_the_defaults() -> None:
    rows, labels = svhn.select([[1]] * 600 + [[2, 2]] * 600 + [[1, 2, 3]] * 700 + [[1, 2, 3, 4], [0], [1, 0]])
    assert labels.shape[1] == 9
    assert labels.sum(1).bincount().tolist() == [0, 2 * 543, 0, 700]
    assert rows[:543].tolist() == list(range(543)) and rows[543] == 600


@pytest.mark.parametrize("split, counts", [("train", [0, 4887, 16329, 4869]), ("test", [0, 3213, 7019, 1041])])
def test_selection_on_the_real_annotations(split: str, counts: list[int], request: pytest.FixtureRequest) -> None:
    path = REAL / "svhn" / split / "digitStruct.mat"
    if not path.is_file():
        pytest.skip("no svhn/ in NCLIB_DATA_ROOT")
    _, labels = svhn.select(DigitStruct(path).digits)
    assert labels.sum(1).bincount().tolist() == counts
    if split == "train":
        pairs = labels[labels.sum(1) == 2].float()
        together = (pairs.T @ pairs).triu(1)
        assert together.max() == together[0, 1] == 954


def read_digit_struct(path: Path) -> list[Annotation]:
    found = DigitStruct(path)
    return found.annotations(range(len(found.digits)))


REAL = Path(os.environ.get("NCLIB_DATA_ROOT", "no-data-root"))


# annotations

TRUE = [
    ("1.png", [1, 9], [(246, 77, 81, 219), (323, 81, 96, 219)]),
    ("2.png", [0], [(-3, 5, 20, 33)]),
    ("3.png", [2, 2, 5], [(1, 2, 3, 4), (5, 6, 7, 8), (9, 1, 2, 3)]),
]


def test_annotations_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "digitStruct.mat"
    stand_ins.write_digit_struct(path, TRUE)
    read = read_digit_struct(path)
    assert read == [
        Annotation(name, tuple(digits), tuple(tuple(map(float, box)) for box in boxes)) for name, digits, boxes in TRUE
    ]
    with h5py.File(path) as file:  # the format itself: digit 0 is label 10; one number, or references to numbers
        first, second = (file[reference] for reference in file["digitStruct/bbox"][:2, 0])
        assert second["label"][()].tolist() == [[10.0]]
        assert first["label"].shape == (2, 1) and file[first["label"][1, 0]][()].tolist() == [[9.0]]
        assert "".join(map(chr, file[file["digitStruct/name"][0, 0]][:, 0])) == "1.png"


@pytest.mark.parametrize(
    "entry, message",
    [
        (("../1.png", [1], [(1, 1, 5, 5)]), r"'\.\./1\.png' is no name of an image"),
        (("/etc/1.png", [1], [(1, 1, 5, 5)]), "is no name of an image"),
        (("1.png\n", [1], [(1, 1, 5, 5)]), "is no name of an image"),
        (("1.\u0661png", [1], [(1, 1, 5, 5)]), "is no name of an image"),
        (("1" * 70 + ".png", [1], [(1, 1, 5, 5)]), "an array has 74 entries, but expected 1 to 64"),
        (("1.png", [11], [(1, 1, 5, 5)]), r"at image 1\.png: a label is not in 1\.\.10"),
        (("1.png", [1.5], [(1, 1, 5, 5)]), "a label is not in"),
        (("1.png", [1], [(1, 1, 0, 5)]), "a box is empty"),
        (("1.png", [1], [(1, float("nan"), 5, 5)]), "cannot be places or sizes in pixels"),
        (("1.png", [1], [(1, 1, float("inf"), 5)]), "cannot be places or sizes in pixels"),
        (("1.png", [1, 2], [(1, 1, 5, 5)]), r"at image 1\.png: Can't"),
        (("1.png", [1] * 70, [(1, 1, 5, 5)] * 70), "an array has 70 entries, but expected 1 to 64"),
    ],
)
def test_annotations_that_cannot_be_are_refused(tmp_path: Path, entry: tuple, message: str) -> None:
    path = tmp_path / "digitStruct.mat"
    stand_ins.write_digit_struct(path, [TRUE[0], entry])
    with pytest.raises(SourceError, match=message) as caught:
        read_digit_struct(path)
    assert str(path) in str(caught.value) and "run the same command again" in str(caught.value)


def _no_names(file: h5py.File) -> None:
    del file["digitStruct/name"]


def _numbers_for_names(file: h5py.File) -> None:
    _no_names(file)
    file["digitStruct/name"] = np.ones((3, 1))


def _fewer_boxes(file: h5py.File) -> None:
    boxes = file["digitStruct/bbox"][:2]
    del file["digitStruct/bbox"]
    file.create_dataset("digitStruct/bbox", data=boxes, dtype=h5py.ref_dtype)


def _empty_reference(file: h5py.File) -> None:
    file["digitStruct/bbox"][1, 0] = h5py.Reference()


def _reference_to_an_array(file: h5py.File) -> None:
    file["digitStruct/bbox"][1, 0] = file["digitStruct/name"][1, 0]


def _reference_to_a_group(file: h5py.File) -> None:
    file["digitStruct/name"][1, 0] = file["digitStruct/bbox"][1, 0]


def _no_label(file: h5py.File) -> None:
    del file[file["digitStruct/bbox"][1, 0]]["label"]


def _label_in_words(file: h5py.File) -> None:
    _no_label(file)
    file[file["digitStruct/bbox"][1, 0]]["label"] = "seven"


def _huge(file: h5py.File) -> None:
    _no_label(file)
    file[file["digitStruct/bbox"][1, 0]].create_dataset("label", shape=(10**7, 10**7), dtype="f8", chunks=(1, 1000))


def _huge_names(file: h5py.File) -> None:
    _no_names(file)
    file.create_dataset("digitStruct/name", shape=(10**9, 1), dtype=h5py.ref_dtype, chunks=(100, 1))


@pytest.mark.parametrize(
    "change, message",
    [
        (_no_names, "digitStruct.*name"),
        (_numbers_for_names, "/digitStruct/name holds no references"),
        (_fewer_boxes, "it has 3 names, but 2 boxes"),
        (_empty_reference, r"at image 2\.png: a reference is empty"),
        (_reference_to_an_array, r"at image 2\.png: a reference leads to a DatasetID"),
        (_reference_to_a_group, "a reference leads to a GroupID, but expected a DatasetID"),
        (_no_label, r"at image 2\.png: .*label"),
        (_label_in_words, r"at image 2\.png: .*data type"),
        (_huge, "an array has 100000000000000 entries, but expected 1 to 64"),
        (_huge_names, "/digitStruct/name has 1000000000 entries"),
    ],
)
def test_files_of_another_structure_are_refused(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "digitStruct.mat"
    stand_ins.write_digit_struct(path, TRUE)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(SourceError, match=message) as caught:
        read_digit_struct(path)
    assert str(path) in str(caught.value)


def test_damaged_hdf5_is_an_error_or_still_valid(tmp_path: Path) -> None:
    """HDF5 has no checksum of its own here: a damaged file must give our error or annotations within their ranges."""
    path = tmp_path / "digitStruct.mat"
    stand_ins.write_digit_struct(path, TRUE)
    whole = path.read_bytes()
    refused = 0
    for content in (b"", b"MATLAB", whole[: len(whole) // 3], whole[:600]):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"digitStruct\.mat cannot be read"):
            read_digit_struct(path)
    for spot in range(512, 512 + 2048, 32):
        damaged = bytearray(whole)
        damaged[spot] ^= 0x15
        path.write_bytes(damaged)
        try:
            for annotation in read_digit_struct(path):
                assert set(annotation.digits) <= set(range(10)) and len(annotation.boxes) == len(annotation.digits)
        except SourceError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 5


# crops


@pytest.mark.parametrize(
    "boxes, size, window",
    [
        ([(30, 10, 10, 20)], (100, 50), (25, 10, 45, 30)),  # upright: as wide as high, centered
        ([(10, 5, 8, 20), (18, 7, 8, 20)], (100, 40), (7, 5, 29, 27)),  # 16 x 22 around both
        ([(40, 10, 20, 10), (60, 10, 20, 10)], (200, 100), (40, 0, 80, 40)),  # wide: moved inside at the top
        ([(80, 30, 30, 60)], (100, 80), (65, 30, 100, 80)),  # cut off at the right and at the bottom
        ([(2, 30, 10, 40)], (100, 100), (0, 30, 40, 70)),  # moved inside at the left, still a square
        ([(-4, -2, 10, 10)], (20, 20), (0, 0, 10, 10)),
        ([(0, 0, 3, 9)], (3, 9), (0, 0, 3, 9)),
    ],
)
def test_the_window_is_the_smallest_square_inside_the_image(boxes, size, window) -> None:
    assert svhn.crop_window(boxes, *size) == window


def test_boxes_outside_the_image_are_refused() -> None:
    for box in [(50, 0, 5, 5), (0, 30, 5, 5), (-9, 0, 5, 5)]:
        with pytest.raises(ValueError, match="boxes lie outside its 40 x 20 pixels"):
            svhn.crop_window([box], 40, 20)


# images


NUMBERS = [[1], [2, 3], [4, 0], [5, 5], [9, 8, 7], [1, 2, 3, 4], [6, 6, 1]]


def write_split(folder: Path) -> Path:
    stand_ins.write_svhn_split(folder, NUMBERS, rng=np.random.default_rng(0))
    return folder


def test_a_split_gives_the_selected_crops_with_their_labels(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "root" / "svhn" / "train")
    source = sources.load("svhn", train=True)
    assert source.places().tolist() == [0, 1, 3, 4, 6] and source.class_names == tuple("123456789")
    assert [(row.nonzero().flatten() + 1).tolist() for row in source.labels] == [[1], [2, 3], [5], [7, 8, 9], [1, 6]]
    assert tuple(source.images.shape) == (5, 3, 32, 32) and source.images.dtype == torch.uint8
    annotations = read_digit_struct(folder / "digitStruct.mat")
    for image, place in zip(source.images, source.places().tolist(), strict=True):
        whole = Image.open(folder / f"{place + 1}.png").convert("RGB")
        window = svhn.crop_window(annotations[place].boxes, *whole.size)
        expected = np.asarray(whole.crop(window).resize((32, 32), Image.Resampling.LANCZOS))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
    again = sources.load("svhn", train=True, image_size=16)
    assert tuple(again.images.shape[2:]) == (16, 16)


def test_svhn_becomes_a_data_set(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_split(tmp_path / "root" / "svhn" / split)
    splits = dataset.build(source="svhn", normalization="imagenet")
    assert splits.train.multiplicity.bincount().tolist() == [0, 2, 2, 1]  # 55 is one label
    assert splits.train.num_classes == 9 and splits.mean == PUBLISHED_MOMENTS["imagenet"][0]
    splits.save(tmp_path / "out")
    assert torch.equal(dataset.load(tmp_path / "out").train.images, splits.train.images)


def test_a_sample_of_each_label_set_is_taken_before_anything_else_is_read(tmp_path: Path, monkeypatch) -> None:
    numbers = [[1], [2, 3], [1, 0], [1, 1], [3, 2], [4, 5, 6], [2, 2, 3], [7]]
    for split in ("train", "test"):
        folder = tmp_path / "root" / "svhn" / split
        stand_ins.write_svhn_split(folder, numbers, rng=np.random.default_rng(len(split)))
    everything = dataset.build(source="svhn")
    decoded, boxes = [], []
    decode, annotations = decoding.decode, DigitStruct.annotations
    monkeypatch.setattr(decoding, "decode", lambda path, change: decoded.append(path) or decode(path, change))
    monkeypatch.setattr(DigitStruct, "annotations", lambda self, rows: boxes.append(rows) or annotations(self, rows))
    sampled = dataset.build(source="svhn", sample_size=1)
    assert boxes == [[0, 1, 5, 7]] and sampled.train.source_index.flatten().tolist() == [0, 1, 5, 7]
    # the test split stays as it is, from the cache
    assert {str(path) for path in decoded} == {str(tmp_path / f"root/svhn/train/{n}.png") for n in (1, 2, 6, 8)}
    assert torch.equal(sampled.train.images, everything.train.images[[0, 1, 4, 6]])
    assert torch.equal(sampled.test.images, everything.test.images)


def test_missing_and_damaged_images_are_named(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "root" / "svhn" / "train")
    whole = (folder / "5.png").read_bytes()
    (folder / "5.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"train/5\.png cannot be read as an image"):
        sources.load("svhn", train=True)
    (folder / "5.png").unlink()
    with pytest.raises(SourceError, match=r"train/5\.png cannot be read as an image .*No such file"):
        sources.load("svhn", train=True)
    Image.new("RGB", (3, 3)).save(folder / "5.png")
    with pytest.raises(SourceError, match=r"train/5\.png .*boxes lie outside its 3 x 3 pixels"):
        sources.load("svhn", train=True)
    (folder / "digitStruct.mat").unlink()
    with pytest.raises(SourceError, match=r"digitStruct\.mat is missing: delete .*train and run"):
        sources.load("svhn", train=True)


def test_a_split_with_nothing_to_keep_is_told(tmp_path: Path) -> None:
    stand_ins.write_svhn_split(tmp_path / "root" / "svhn" / "test", [[0], [1, 0]], rng=np.random.default_rng(0))
    with pytest.raises(SourceError, match="no image that the selection keeps"):
        sources.load("svhn", train=False)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_an_archive_is_fetched_unpacked_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(tmp_path / "made" / "test")
    (tmp_path / "web").mkdir()
    archive = tmp_path / "web" / "test.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "made" / "test", "test")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            monkeypatch.setattr(svhn, "URL", url)
            with pytest.raises(SourceError, match=r"test\.tar\.gz: expected sha256 57ac9ceb.*Put test"):
                sources.load("svhn", train=False)
            monkeypatch.setitem(svhn.SHA256, "test", hashlib.sha256(archive.read_bytes()).hexdigest())
            assert len(sources.load("svhn", train=False)) == 5
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(SourceError, match=r"Cannot download train\.tar\.gz .*or unpack it there"):
        sources.load("svhn", train=True)


def test_an_archive_of_the_users_own_is_taken(tmp_path: Path, caplog) -> None:
    write_split(tmp_path / "made" / "test")
    archive = tmp_path / "root" / "svhn" / "test.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "made" / "test", "test")
    assert len(sources.load("svhn", train=False)) == 5
    assert "test.tar.gz is not the published file: expected sha256 57ac9ceb" in caplog.text
