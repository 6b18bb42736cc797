"""Data sets: what `build` makes of its fields, and what `load` accepts of the files `save` writes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nclib.data import dataset, sources, stand_ins
from nclib.data.tensors import load_tensors, save_tensors
from nclib.study.files import StageError
from nclib.study.study import ParameterError, Study

COMPOSED = {
    "source": "digits",
    "layout": "mnist",
    "train_counts": {1: 6, 2: 2},
    "test_counts": {1: 3, 2: 1},
}


@pytest.fixture(scope="module")
def composed() -> dataset.Splits:
    return dataset.build(**COMPOSED, normalization="dataset", seed=3)


def assert_same(first: dataset.MultiLabelData, second: dataset.MultiLabelData) -> None:
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.source_index, second.source_index)
    assert first.class_names == second.class_names


def test_digits_are_split_by_class_before_anything_is_composed() -> None:
    train, test = (sources.load("digits", train=train, test_fraction=0.25, seed=1) for train in (True, False))
    places = torch.cat([train.places(), test.places()])
    assert len(places) == 1797 == len(places.unique())
    share = test.labels.bincount() / torch.cat([train.labels, test.labels]).bincount()
    assert (share - 0.25).abs().max() < 0.01
    other = sources.load("digits", train=False, test_fraction=0.25, seed=2)
    assert not torch.equal(test.places(), other.places())


def test_digits_are_the_published_ones_in_bytes() -> None:
    from sklearn.datasets import load_digits

    published = load_digits()
    train = sources.load("digits", train=True)
    assert train.images.dtype == torch.uint8 and tuple(train.images.shape[1:]) == (1, 8, 8)
    places = train.places().numpy()
    assert np.array_equal(train.labels.numpy(), published.target[places])
    difference = train.images[:, 0].numpy() / 255 - published.images[places] / 16
    assert np.abs(difference).max() <= 0.5 / 255
    assert train.images.max() == 255


def test_no_digit_is_in_both_splits_of_a_composed_data_set(composed: dataset.Splits) -> None:
    used = [set(split.source_index[split.source_index >= 0].tolist()) for split in (composed.train, composed.test)]
    assert not used[0] & used[1]
    assert composed.train.multiplicity.bincount().tolist() == [0, 60, 90]
    assert composed.test.multiplicity.bincount().tolist() == [0, 30, 45]
    assert composed.num_classes == 10 and composed.class_names == tuple("0123456789")


def test_build_depends_on_its_seed_and_nothing_else(composed: dataset.Splits) -> None:
    torch.manual_seed(99)
    again = dataset.build(**COMPOSED, normalization="dataset", seed=3)
    assert_same(composed.train, again.train)
    assert_same(composed.test, again.test)
    assert (composed.mean, composed.std) == (again.mean, again.std)
    other = dataset.build(**COMPOSED, seed=4)
    assert not torch.equal(composed.train.images, other.train.images)


def test_the_training_images_do_not_depend_on_the_test_counts(composed: dataset.Splits) -> None:
    other = dataset.build(**COMPOSED | {"test_counts": {1: 40}}, seed=3)
    assert_same(composed.train, other.train)


def test_pair_groups_give_the_pairs_of_the_training_split() -> None:
    splits = dataset.build(**COMPOSED | {"train_counts": {1: 6}}, pair_groups=[5, 2, 1])
    counts = splits.train.label_set_counts()
    pairs = [number for label_set, number in counts.items() if len(label_set) == 2]
    assert pairs == [5] * 15 + [2] * 15 + [1] * 15
    assert {number for label_set, number in counts.items() if len(label_set) == 1} == {6}
    assert splits.test.multiplicity.bincount().tolist() == [0, 30, 45]


def test_without_a_layout_the_images_stay_as_they_are() -> None:
    splits = dataset.build(source="digits", seed=1)
    source = sources.load("digits", train=True, seed=1)
    assert torch.equal(splits.train.images, source.images)
    assert torch.equal(splits.train.labels.argmax(1), source.labels)
    assert len(splits.train) + len(splits.test) == 1797
    assert (splits.mean, splits.std) == ((0.0,), (1.0,))


def test_sample_size_takes_the_first_training_images_of_each_class() -> None:
    splits = dataset.build(source="digits", sample_size=20, seed=1)
    everything = dataset.build(source="digits", seed=1)
    assert splits.train.labels.sum(0).tolist() == [20] * 10
    of_a_class = everything.train.labels[:, 3] == 1
    assert torch.equal(splits.train.images[splits.train.labels[:, 3] == 1], everything.train.images[of_a_class][:20])
    assert_same(splits.test, everything.test)
    with pytest.raises(ValueError, match=r"at most 1\d\d training images of class '0' .*, but got 1000"):
        dataset.build(source="digits", sample_size=1000)


def test_a_long_tail_has_a_number_of_images_for_each_class() -> None:
    sizes = [50, 40, 30, 20, 10, 8, 6, 4, 2, 1]
    train = dataset.build(source="digits", class_counts=sizes).train
    assert list(train.label_set_counts().values()) == sizes
    balanced = dataset.build(source="digits", sample_size=50).train
    assert set(train.source_index.flatten().tolist()) < set(balanced.source_index.flatten().tolist())
    with pytest.raises(ValueError, match=r"Expected class_counts of 10 classes, but got 2 numbers"):
        dataset.build(source="digits", class_counts=[5, 5])


def test_random_labels_are_balanced_and_fixed_by_the_seed() -> None:
    truth = dataset.build(source="digits", seed=1)
    shuffled = dataset.build(source="digits", random_labels=True, seed=1)
    again = dataset.build(source="digits", random_labels=True, seed=1)
    for split in ("train", "test"):
        before, after = getattr(truth, split), getattr(shuffled, split)
        assert torch.equal(before.images, after.images)
        counts = after.labels.sum(0)
        assert counts.max() - counts.min() <= 1
        assert 0.05 < (before.labels * after.labels).sum() / len(before) < 0.15  # one in ten by chance
        assert_same(after, getattr(again, split))


def test_image_size_resizes_the_sources_before_they_are_composed() -> None:
    splits = dataset.build(**COMPOSED, image_size=12)
    assert tuple(splits.train.images.shape[1:]) == (1, 24, 24)


def test_normalization_by_the_training_images(composed: dataset.Splits) -> None:
    values = composed.train.images.double() / 255
    assert composed.mean == pytest.approx([values.mean().item()], rel=1e-12)
    assert composed.std == pytest.approx([values.std(correction=0).item()], rel=1e-12)


def test_every_run_is_checked_once_the_classes_are_known(tmp_path: Path) -> None:
    stand_ins.write_image_folder(tmp_path, classes=12, per_class=2, side=8)
    splits = dataset.build(source="image_folder", root=tmp_path)
    values = {
        "study": "own",
        "dataset": {"source": "image_folder"},
        "model": {"arch": "mlp", "feature_dim": 11},
        "runs": {"learned": None, "etf": {"model": {"head": "etf"}}},
    }
    dataset.check_runs(splits, Study.from_mapping(values))
    values["model"]["feature_dim"] = 10
    message = r"model\.feature_dim: .*>= num_classes - 1 = 11, but got 10.* \(run 'etf'\)"
    with pytest.raises(ParameterError, match=message):
        dataset.check_runs(splits, Study.from_mapping(values))
    values["runs"] = {"vgg": {"model": {"arch": "vgg16"}}}
    with pytest.raises(ParameterError, match=r"runs\.vgg\.model\.arch: .*8 x 8"):
        dataset.check_runs(splits, Study.from_mapping(values))
    values["dataset"]["name"] = "another"
    dataset.check_runs(splits, Study.from_mapping(values))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"source": "imagenet"}, "source\n.*'digits', 'mnist'.*input_value='imagenet'"),
        ({"train_counts": {1: 1, 4: 1}}, "multiplicities between 1 and 3 for layout 'mnist' and 10 classes, but got 4"),
    ],
)
def test_fields_are_checked_as_those_of_a_study(change: dict, message: str) -> None:
    """`test_study.py` has the rules."""
    with pytest.raises(ValueError, match=message):
        dataset.build(**COMPOSED | change)


def test_save_and_load_give_the_same_bits(composed: dataset.Splits, tmp_path: Path) -> None:
    path = tmp_path / "datasets" / "data" / dataset.FILE
    composed.save(path)
    assert [file.name for file in path.parent.iterdir()] == ["data.safetensors"]
    loaded = dataset.load(path)
    assert_same(composed.train, loaded.train)
    assert_same(composed.test, loaded.test)
    assert (loaded.mean, loaded.std, loaded.class_names) == (composed.mean, composed.std, composed.class_names)
    assert loaded.name == composed.name
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first


def test_a_missing_data_set_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"data\.safetensors is missing: run stage 01_dataset first"):
        dataset.load(tmp_path / dataset.FILE)


def test_a_file_cut_short_is_refused(composed: dataset.Splits, tmp_path: Path) -> None:
    """Other damage is found by the stage that reads the file: it compares checksums with the manifest."""
    path = tmp_path / dataset.FILE
    composed.save(path)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for length in (0, 7, header, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(StageError, match=r"data\.safetensors is damaged .*run stage 01_dataset again"):
            dataset.load(path)


def _drop(tensors: dict, header: dict) -> None:
    del tensors["test_labels"]


def _no_classes(tensors: dict, header: dict) -> None:
    header["class_names"] = None


@pytest.mark.parametrize("change", [_drop, _no_classes])
def test_a_whole_file_of_something_else_is_refused(composed: dataset.Splits, tmp_path: Path, change) -> None:
    path = tmp_path / dataset.FILE
    composed.save(path)
    tensors, header = load_tensors(path, stage="01_dataset")
    change(tensors, header)
    save_tensors(path, tensors, header)
    with pytest.raises(StageError, match=r"data\.safetensors is no data set of stage 01_dataset .*run stage"):
        dataset.load(tmp_path / dataset.FILE)


@pytest.mark.parametrize("header", [None, [1], "text", {}])
def test_a_header_of_another_kind_is_refused(tmp_path: Path, header) -> None:
    save_tensors(tmp_path / "data.safetensors", {"weight": torch.ones(2)}, header)
    with pytest.raises(StageError, match="is no data set of stage 01_dataset"):
        dataset.load(tmp_path / dataset.FILE)
