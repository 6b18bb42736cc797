"""Crafted and damaged files end in an error that names them: no code runs, nothing hangs, memory is bounded.

MNIST's and CIFAR-10's own files are no subject here: they are records of one size behind at most 16 bytes of header,
all of which is compared with the file's size before anything is read (`test_sources.py` damages each field).
"""

import io
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from nclib.data import stand_ins
from nclib.data.sources.base import SourceError
from nclib.data.sources.decoding import decode
from nclib.data.sources.digit_struct import DigitStruct
from nclib.data.sources.download import unpack
from nclib.data.tensors import load_tensors, save_tensors
from nclib.study.files import StageError, read_csv
from nclib.study.study import ParameterError, Study

FEW, MANY = 200, 10_000
CASES = pytest.mark.parametrize("cases", [FEW, pytest.param(MANY, marks=pytest.mark.stress)])
MEMORY = 1 << 29  # bytes that reading a damaged file may add
SECONDS = 10  # for one damaged file
STUDY = (
    b"study: s\ndataset: {name: d, train_counts: {1: 3}, layout: mnist, test_counts: {1: 2}}\nruns: {a: {}, b: {}}\n"
)


def mutations(content: bytes, number: int, *, kinds: int = 4):
    """Damaged copies: bytes changed, cut out, doubled or put in (or only the first of these kinds)."""
    chance = random.Random(0)
    for _ in range(number):
        made = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            at, length = chance.randrange(len(made) + 1), chance.randint(0, 8)
            kind = chance.randrange(kinds)
            if kind == 0 and at < len(made):
                made[at] = chance.randrange(256)
            elif kind == 1:
                del made[at : at + length]
            elif kind == 2:
                made[at:at] = made[at : at + length]
            else:
                made[at:at] = chance.choice([b"\xff" * 8, b"&a [*a]", b"!!python/object:os.system ", b"1e999", b"\0"])
        yield bytes(made)


def fuzz(path, content, read, refusals, *, cases, kinds=4):
    refused = 0
    for made in mutations(content, cases, kinds=kinds):
        path.write_bytes(made)
        try:
            read(path)
        except refusals:
            refused += 1
    assert refused > cases / 20, "most mutations must reach a check"


@CASES
def test_tensors(tmp_path, cases):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.arange(6.0).view(2, 3)}, {"k": 1})
    fuzz(path, path.read_bytes(), lambda p: load_tensors(p, stage="02_train"), StageError, cases=cases)


@CASES
def test_tables(tmp_path, cases):
    content = b'epoch,split,nc1\n0,train,0.5\n1,"test",1e-3\n'
    fuzz(tmp_path / "t.csv", content, lambda p: read_csv(p, stage="03_validate"), StageError, cases=cases)


@CASES
def test_studies(tmp_path, cases):
    fuzz(tmp_path / "s.yaml", STUDY, Study.from_file, ParameterError, cases=cases)


@CASES
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_images(tmp_path, kind, cases):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 99, 199)).save(buffer, kind)
    read = lambda path: decode(path, lambda image: image.resize((4, 4)))  # noqa: E731
    fuzz(tmp_path / "p", buffer.getvalue(), read, SourceError, cases=cases)


@CASES
def test_annotations(tmp_path, cases):
    """In a process of its own: HDF5 is a library in C, which a damaged file might crash or hang."""
    command = [sys.executable, __file__, tmp_path / "digitStruct.mat", str(cases)]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0, f"ended with {ended.returncode}:\n{ended.stderr[-3000:]}"


def fuzz_annotations(path, cases):
    annotations = [("1.png", [1, 9], [(24, 7, 8, 21), (32, 8, 9, 21)]), ("2.png", [0], [(-3, 5, 20, 33)])]
    stand_ins.write_digit_struct(path, annotations)
    whole = path.read_bytes()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))

    def read(path):
        signal.alarm(SECONDS)  # ends this process
        found = DigitStruct(path)
        for annotation in found.annotations(range(len(found.digits))):
            assert set(annotation.digits) <= set(range(10)) and len(annotation.boxes) == len(annotation.digits)

    assert read(path) is None
    fuzz(path, whole, read, SourceError, cases=cases // 2)
    fuzz(path, whole, read, SourceError, cases=cases // 2, kinds=1)  # all in its place: these get further


def test_archives_stay_in_their_folder(tmp_path):
    for name in ("../out", "/tmp/nclib-out", "train/../../out"):
        with tarfile.open(tmp_path / "train.tar.gz", "w:gz") as archive:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        with pytest.raises(SourceError, match=r"cannot be unpacked|holds no folder"):
            unpack(tmp_path / "train.tar.gz", tmp_path / "train")
    assert [path.name for path in tmp_path.iterdir()] == ["train.tar.gz"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "study: !!python/object/apply:os.system ['touch owned']\n",
        "a: " + "[" * 100_000,
        "study: s\nruns: {a: {training: {lr: " + "9" * 10_000 + "}}}\n",
        "study: [&x0 [0,0,0]" + "".join(f", &x{i} [" + f"*x{i - 1}," * 9 + "]" for i in range(1, 12)) + "]\n",
        "study: &a [*a]\nruns: *a\n",
        "study: s\nruns: &a {b: *a}\n",
    ],
    ids=["object", "deep", "huge", "laughs", "loop", "loop of runs"],
)
def test_crafted_studies(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ParameterError, match=r"s\.yaml: "):
        Study.from_file(tmp_path / "s.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


if __name__ == "__main__":
    fuzz_annotations(Path(sys.argv[1]), int(sys.argv[2]))
