"""Files appear whole or not at all, and come back only as they were written."""

import os
import platform
import subprocess
import sys

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nclib.data.tensors import load_tensors, save_tensors
from nclib.study.files import (
    StageError,
    atomic_path,
    read_csv,
    require,
    temporary_beside,
    write_csv,
    write_json,
)

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7, dtype=torch.uint8), "c": torch.zeros(0, 3)}


def test_tensors_and_metadata_come_back(tmp_path):
    shared = {"t": TENSORS["a"].T, "again": TENSORS["a"]}
    save_tensors(tmp_path / "x.safetensors", TENSORS | shared, {"k": [1, "ü"]})
    tensors, metadata = load_tensors(tmp_path / "x.safetensors", stage="01_dataset")
    assert metadata == {"k": [1, "ü"]}
    assert torch.equal(tensors["t"], TENSORS["a"].T)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_tensors_are_not_copied_to_be_written(tmp_path, monkeypatch):
    written = {}
    monkeypatch.setattr("nclib.data.tensors.save_file", lambda given, path, _: (written.update(given), path.touch()))
    save_tensors(tmp_path / "x.safetensors", TENSORS)
    assert all(written[name].data_ptr() == tensor.data_ptr() for name, tensor in TENSORS.items())


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("flip") / "x.safetensors"
    save_tensors(path, TENSORS, {"k": 1}, checksum=True)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"x\.safetensors is damaged .*delete it and run stage 02_train again"):
        load_tensors(path, stage="02_train", checksum=True)


@pytest.mark.parametrize("size", [0, 7, 8, 50, -1])
def test_truncated_tensors_are_refused(tmp_path, size):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StageError, match=r"x\.safetensors is damaged"):
        load_tensors(path, stage="02_train")


def test_missing_file_names_the_stage(tmp_path):
    with pytest.raises(StageError, match=r"none\.csv is missing: run stage 03_validate first"):
        require(tmp_path / "none.csv", stage="03_validate")


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["x.txt"]


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    own = temporary_beside(tmp_path / "x.txt", "tmp").name
    leftover = tmp_path / own.replace(f".{os.getpid()}.", f".{ended.stdout.strip()}.")
    elsewhere = tmp_path / leftover.name.replace(platform.node().replace(".", "-"), "another-node")
    for file in (leftover, elsewhere):
        file.write_text("half")
    with atomic_path(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
    # a process of another machine may have that number, and be alive
    assert {found.name for found in tmp_path.iterdir()} == {"x.txt", elsewhere.name}


@pytest.mark.skipif(os.geteuid() != 0, reason="a small tmpfs can be mounted by root only")
def test_full_disk_is_said_and_leaves_the_old_file(small_disk):
    path = small_disk / "x.safetensors"
    save_tensors(path, TENSORS)
    old = path.read_bytes()
    with pytest.raises(StageError, match=r"Cannot write .*x\.safetensors: No space left.*free some space"):
        save_tensors(path, {"big": torch.zeros(10_000_000)})
    with pytest.raises(StageError, match=r"Cannot write .*t\.csv: No space left"):
        write_csv(small_disk / "t.csv", pd.DataFrame({"a": range(1_000_000)}))
    assert path.read_bytes() == old
    assert [found.name for found in small_disk.iterdir()] == ["x.safetensors"]


def test_tables_come_back_bit_for_bit(tmp_path):
    table = pd.DataFrame({"epoch": [0, 1], "nc1": [0.1 + 0.2, 1e-300], "split": ["train", "test"]})
    write_csv(tmp_path / "t.csv", table)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "t.csv", stage="x"), table, check_exact=True)


def test_broken_tables_and_what_json_cannot_say_are_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'a,b\n"1')
    with pytest.raises(StageError, match=r"t\.csv is damaged"):
        read_csv(tmp_path / "t.csv", stage="02_train")
    with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
        write_json(tmp_path / "n.json", float("nan"))
    assert not (tmp_path / "n.json").exists()
